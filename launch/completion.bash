# SPDX-License-Identifier: Apache-2.0
# In bash, `source launch/completion.bash` completes headroom's commands and options, the keys of a configuration and
# their values, all as `headroom --help` tells them, and else files.

_headroom_usage() { # of the command, or of all
    "$1" --help | awk -v command="$2" '/^$/ {exit} {sub(/^usage:/, "      ")}
                                       /^       headroom/ {on = command == "" || $2 == command} on'
}

_headroom_keys() {
    "$1" --help | sed -n 's/^\([a-z]*\.[a-z0-9_]*\)  .*/\1=/p'
}

_headroom_values() { # of the key
    "$1" --help | sed -n "s/^$2  .*(\(name\|bool\): \([^;]*\); default .*/\2/p" | tr -d ','
}

_headroom() {
    local program=${COMP_WORDS[0]} command=${COMP_WORDS[1]} word=${COMP_WORDS[COMP_CWORD]} key='' words=''
    if [[ $word == '=' ]]; then
        key=${COMP_WORDS[COMP_CWORD - 1]} word=''
    elif [[ ${COMP_WORDS[COMP_CWORD - 1]} == '=' ]]; then
        key=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if ((COMP_CWORD == 1)); then
        words=$(_headroom_usage "$program" '' | sed -n 's/^       headroom \([a-z-]*\).*/\1/p')
    elif [[ -n $key ]]; then
        words=$(_headroom_values "$program" "$key")
    elif [[ $word == -* ]]; then
        words=$(_headroom_usage "$program" "$command" | grep -o -- '--[a-z-]*')
    elif [[ $word == *.* ]]; then
        words=$(_headroom_keys "$program")
        [[ $(type -t compopt) == builtin ]] && compopt -o nospace 2>/dev/null
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}

complete -o default -F _headroom headroom
