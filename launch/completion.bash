# SPDX-License-Identifier: Apache-2.0
# In bash, `source launch/completion.bash` completes headroom's commands and options, the keys of a configuration and
# the words that they and options take, all as `headroom --help` tells them, and else files. What was typed is data:
# it gets into no program of sed or awk.

# The program as the shell would start it: without quotes and backslashes, from a person's home.
_headroom_program() {
    local program
    program=$(xargs printf '%s' <<<"$1" 2>/dev/null)
    case $1 in
        '~/'*) program=$HOME/${program#'~/'} ;;
    esac
    printf '%s' "$program"
}

_headroom_help() { # of the program, or of its command
    "$@" --help 2>/dev/null
}

_headroom_usage() { # of the program, or of its command
    _headroom_help "$@" | awk '/^$/ {exit} {sub(/^usage:/, "      "); print}'
}

_headroom_keys() { # of the configuration, or of a scenario
    _headroom_help "$@" | sed -n 's/^\([a-z]*\.[a-z0-9_]*\)  .*/\1=/p'
}

# What --help says behind the key: (name: a, b; default a), or (count: 1 to 9 or auto; default auto).
_headroom_values() { # of the key, and then as above
    local key=$1 told
    shift
    told=$(_headroom_help "$@" | key=$key awk 'index($0, ENVIRON["key"] "  ") == 1' |
        sed -n 's/.*(\([a-z]*: .*\))$/\1;/p')
    case $told in
        name:* | bool:*) sed 's/^[a-z]*: \([^;]*\);.*/\1/; s/,//g' <<<"$told" ;;
        *) sed -n 's/^[^;]* or \([a-z]*\)[,;].*/\1/p' <<<"$told" ;;
    esac
}

# The words among what the usage says behind the option, as in --tokens bytes|gpt2.
_headroom_option_values() { # of the option, and then as above
    local option=$1
    shift
    _headroom_usage "$@" | option="$option " awk '
        i = index($0, ENVIRON["option"]) {$0 = substr($0, i + length(ENVIRON["option"])); sub(/[] ].*/, ""); print}
    ' | tr '|' '\n' | grep -x '[a-z0-9]*'
}

_headroom_devices() {
    _headroom_help "$1" plan | sed -n 's/^devices: //p' | tr -d ','
}

_headroom() {
    local program command=${COMP_WORDS[1]} word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    local key='' words='' prefix='' keys=()
    program=$(_headroom_program "${COMP_WORDS[0]}")
    [[ $command == simulate ]] && keys=(simulate)
    if [[ $word == '=' ]]; then
        key=$before word=''
    elif [[ $before == '=' ]]; then
        key=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if ((COMP_CWORD == 1)); then
        words=$(_headroom_usage "$program" | sed -n 's/^       headroom \([a-z-]*\).*/\1/p' | sort -u)
    elif [[ -n $key ]]; then
        words=$(_headroom_values "$key" "$program" "${keys[@]}")
    elif [[ $command == memory ]] && ((COMP_CWORD == 2)); then
        words=$(_headroom_usage "$program" memory | sed -n 's/^       headroom memory \([a-z]*\).*/\1/p')
    elif [[ $command == plan && $before == --device ]]; then
        words=$(_headroom_devices "$program")
    elif [[ $command == plan && $before == --ranks && $word == *[0-9]x* ]]; then
        prefix=${word%x*}x
        words=$(_headroom_devices "$program")
    elif [[ $word == -* ]]; then
        words=$(_headroom_usage "$program" "$command" | grep -o -- '--[a-z-]*')
    elif [[ $word == *.* ]]; then
        words=$(_headroom_keys "$program" "${keys[@]}")
        [[ $(type -t compopt) == builtin ]] && compopt -o nospace 2>/dev/null
    elif [[ $before == --* ]]; then
        words=$(_headroom_option_values "$before" "$program" "$command")
    fi
    mapfile -t COMPREPLY < <(compgen -P "$prefix" -W "$words" -- "${word#"$prefix"}")
}

complete -o default -F _headroom headroom
