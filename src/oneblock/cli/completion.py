"""Scripts that let a shell complete commands, options and their values.

The options lie in ``completion.json``, so that a script is printed, and a word completed, without importing torch;
``python tests/completion.py`` writes the file, and a test keeps it equal to the options that there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from string import Template

SHELLS = ("bash", "zsh", "fish")
FILE = Path(__file__).with_name("completion.json")
Options = Mapping[str, Mapping[str, list[str] | None]]
"""Of each command its options: None for one without a value, else the values to choose from, if they can be listed."""

BASH = Template("""\
_oneblock() {
    local word="$${COMP_WORDS[COMP_CWORD]}" before="$${COMP_WORDS[COMP_CWORD-1]}" verb="$${COMP_WORDS[1]}" values=""
    COMPREPLY=()
    if [ "$$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($$(compgen -W "$first" -- "$$word"))
        return
    fi
    case "$$verb" in
$groups
    esac
    case "$$verb $$before" in
$values
    esac
    case "$$verb" in
$options
    esac
}
complete -o bashdefault -o default -F _oneblock oneblock""")

ZSH = """\
(( $+functions[compdef] )) || { autoload -U compinit && compinit }
autoload -U bashcompinit && bashcompinit
"""

FISH = """\
function __oneblock_at
    set -l words (commandline -opc)
    set -e words[1]
    set -l given (string split ' ' -- $argv)
    set -l count (count $given)
    test (count $words) -ge $count; and test "$words[1..$count]" = "$argv"
end
function __oneblock_next
    set -l words (commandline -opc)
    set -e words[1]
    test "$words" = "$argv"
end"""


def read_options() -> Options:
    """The options of all commands."""
    return json.loads(FILE.read_text())


def script(shell: str) -> str:
    """What ``shell`` must read to complete the words of ``oneblock``; it is one of ``SHELLS``."""
    options = read_options()
    return _fish(options) if shell == "fish" else (ZSH if shell == "zsh" else "") + _bash(options)


def _following(options: Options) -> dict[str, list[str]]:
    """The words that may follow the first one: ``train`` -> ``images``, ...; ``completion`` -> the shells."""
    found: dict[str, list[str]] = {}
    for verb in options:
        first, _, second = verb.partition(" ")
        found.setdefault(first, []).extend([second] if second else [])
    return found | {"completion": list(SHELLS)}


def _bash(options: Options) -> str:
    following = _following(options)
    groups = [
        f'        {first}) if [ "$COMP_CWORD" -eq 2 ]; then COMPREPLY=($(compgen -W "{" ".join(second)}" -- "$word")); '
        'return; fi; verb="$verb ${COMP_WORDS[2]}";;'
        for first, second in following.items()
        if second
    ]
    values = [
        f'        "{verb} {option}") COMPREPLY=($(compgen -W "{" ".join(choices)}" -- "$word")); return;;'
        for verb, known in options.items()
        for option, choices in known.items()
        if choices
    ]
    words = [
        f'        "{verb}") [[ "$word" == -* ]] && COMPREPLY=($(compgen -W "{" ".join(each)} --help" -- "$word"));;'
        for verb, each in options.items()
    ]
    return BASH.substitute(
        first=" ".join([*following, "--help", "--version"]),
        groups="\n".join(groups),
        values="\n".join(values),
        options="\n".join(words),
    )


def _fish(options: Options) -> str:
    following = _following(options)
    lines = [FISH, f"complete -c oneblock -f -n '__oneblock_next' -a '{' '.join(following)}'"]
    lines += ["complete -c oneblock -f -n '__oneblock_next' -l version", "complete -c oneblock -l help"]
    for first, second in following.items():
        if second:
            lines.append(f"complete -c oneblock -f -n '__oneblock_next {first}' -a '{' '.join(second)}'")
    for verb, known in options.items():
        for option, choices in known.items():
            value = "" if choices is None else f" -x -a '{' '.join(choices)}'" if choices else " -r"
            lines.append(f"complete -c oneblock -n '__oneblock_at {verb}' -l {option.removeprefix('--')}{value}")
    return "\n".join(lines)
