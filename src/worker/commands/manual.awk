# SPDX-License-Identifier: Apache-2.0
# The manual page, of what `headroom --help` prints; VERSION is set.

function escaped(text) {
    gsub(/\\/, "\\e", text)
    gsub(/-/, "\\-", text)
    return text ~ /^[.']/ ? "\\\&" text : text
}

function section(name) {
    print ".SH " name
    part = name
}

function item(name, text) {
    print ".TP\n.B " escaped(name) "\n" escaped(text)
}

BEGIN {
    print ".TH HEADROOM 1 \"\" \"headroom " VERSION "\" \"User Commands\""
    section("NAME")
    print "headroom \\- trains neural networks on several devices without running out of memory"
    section("SYNOPSIS")
    print ".nf"
}

/^$/ {
    next
}

part == "SYNOPSIS" && /^(usage: |       )/ {
    print escaped(substr($0, 8))
    next
}

part == "SYNOPSIS" {
    print ".fi"
    section("COMMANDS")
}

/^exit codes: / {
    section("\"EXIT STATUS\"")
    sub(/^exit codes: /, "")
}

/^configuration keys:$/ {
    section("\"CONFIGURATION KEYS\"")
    next
}

part != "\"EXIT STATUS\"" && match($0, /^(memory [a-z]+|[^ ]+) +/) {
    cut = RLENGTH
    name = substr($0, 1, cut)
    sub(/ +$/, "", name)
    item(name, substr($0, cut + 1))
    next
}

{
    sub(/^ +/, "")
    print escaped($0)
}

END {
    print ".SH \"SEE ALSO\"\nmpirun(1), srun(1)"
}
