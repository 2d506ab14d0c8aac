# Says what an interactive zsh offers for a command line, one match a line.
#
#     zsh -f complete.zsh DIRECTORY LINE
#
# A second shell is at a terminal, with the completion functions of DIRECTORY.  It gets the line, and the tab key.  What
# its completion system adds to the list of matches goes through `compadd`, which says it here as well.

if [[ -o interactive ]]; then
    PROMPT= fpath=($1 $fpath)
    autoload -Uz compinit && compinit -u -D
    bindkey '^I' complete-word
    completed() { print -r -- '<end>'; exit }
    comppostfuncs=(completed)
    compadd() {
        # With one of these options, matches are only filtered or counted.
        if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)\ * ]]; then
            local -a matches
            builtin compadd -A matches "$@"
            print -rl -- '<match>'$^matches
        fi
        builtin compadd "$@"
    }
    print -r -- '<ready>'
    return
fi

zmodload zsh/zpty
zpty shell TERM=dumb zsh -f -i
zpty -w shell "source ${(q)${0:A}} ${(q)1}"
zpty -r shell said '*<ready>*' || exit 1
zpty -w -n shell "$2"$'\t'
zpty -r shell said '*<end>*' || exit 1
for line in "${(@f)${said//$'\r'}}"; do
    [[ $line != *'<match>'?* ]] || print -r -- "${line#*<match>}"
done
