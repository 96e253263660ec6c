#!/bin/sh
# An OCI runtime whose containers sleep. Its working folder is the bundle, and a
# file hang-<verb> there keeps that verb from coming to an end, and wait-<verb>
# for as long as a child of it lives.
set -eu

# A pid may have been given to a stranger meanwhile.
is_ours() {
    tr '\0' '\n' <"/proc/$1/environ" 2>/dev/null | grep -qxF "TTRPC_ADDRESS=$TTRPC_ADDRESS"
}

while [ $# -gt 0 ]; do
    case $1 in
        --root | --log | --log-format) shift 2 ;;
        *) break ;;
    esac
done
verb=$1
shift
if [ -e "hang-$verb" ]; then
    printf %s $$ >hanging~
    mv hanging~ hanging
    exec sleep 1000
fi
if [ -e "wait-$verb" ]; then
    (echo >begun; sleep 1000; :) || :
    echo >undone
    exit 3
fi
case $verb in
    create)
        while [ $# -gt 1 ]; do
            [ "$1" != --pid-file ] || file=$2
            shift
        done
        setsid sleep 1000 &
        printf %s $! >"$file"
        ;;
    start) ;;
    kill)
        [ "$1" != --all ] || shift
        kill -"$2" "$(cat init.pid)"
        ;;
    delete)
        if [ "$1" = --force ] && is_ours "$(cat init.pid)"; then
            kill -9 "$(cat init.pid)"
        fi
        ;;
    *) exit 1 ;;
esac
