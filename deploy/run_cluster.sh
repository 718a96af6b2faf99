#!/usr/bin/env bash
# Loader service and trainer on this machine, from a bare checkout to a trained network. See --help.
set -euo pipefail
# shellcheck source=deploy/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

READY_LIMIT_S=60 # for the loader to serve
STOP_LIMIT_S=30  # for a process to end after SIGTERM; the trainer saves a checkpoint in that time

usage() {
    cat <<END
Usage: $PROGRAM [OPTIONS] [-- TRAINER OPTIONS]

  Sets up .venv, makes a demo dataset if data/ is missing, starts alexnet-loader and alexnet-trainer, shows progress, ends
  with the validation error, the folder of the run and a report of it, and stops both.

Options:
  --data DIR        packed dataset  [default: data; the demo dataset if missing]
  --recipe NAME     source, paper, cifar10, demo or a FILE.toml
                    [default: demo on the demo dataset, else source; with --resume the run's]
  --epochs N        epochs of the whole run  [default: the recipe's]
  --workers N       worker processes of the loader  [default: one per core, at most 16]
  --services N      services of the loader that share them, each at a port of its own  [default: 1]
  --gpus LIST       GPUs of the halves: 0,1 or 0  [default: 0,1 if there are two, 0 if one, else --cpu]
  --cpu             train on the CPU
  --ranks N         processes that train together, each with GPUs of its own  [default: 1]
  --seed N          seed of order, augmentation and weights  [default: the trainer's]
  --run DIR         folder for checkpoints, metrics.jsonl, loader.log and report.html
                    [default: runs/DATE-TIME-PID]
  --resume          resume the run in --run DIR
  --bind ENDPOINT   endpoint of the loader  [default: tcp://127.0.0.1:*, any free port]
  --keys DIR        keys for both, made by alexnet-loader keys; required if --bind is reachable from other hosts
  --help, -h        show this message and exit
END
}

bad_option() { fail 2 "$*; see $PROGRAM --help"; }

read_options() {
    data='' recipe='' run='' resume='' keys=() services=() bind='tcp://127.0.0.1:*' workers="$(nproc)" devices=() passed_on=() ranks=1
    if ((workers > 16)); then workers=16; fi
    while (($#)); do
        if [[ "$1" == --*=* ]]; then set -- "${1%%=*}" "${1#*=}" "${@:2}"; fi
        case "$1" in
            --help | -h) usage && exit 0 ;;
            --cpu) devices=(--cpu) && shift && continue ;;
            --resume) resume=yes && passed_on+=(--resume) && shift && continue ;;
            --) passed_on+=("${@:2}") && break ;;
            --data | --recipe | --epochs | --workers | --services | --gpus | --ranks | --seed | --run | --bind | --keys) ;;
            *) bad_option "no such option: $1" ;;
        esac
        [[ -n "${2-}" ]] || bad_option "$1 needs a value"
        take_option "$1" "$2"
        shift 2
    done
    [[ -z "$resume" || -d "$run" ]] || bad_option "--resume needs the folder of a run, --run; it is '$run'"
    if [[ -n "$recipe" ]]; then passed_on+=(--recipe "$recipe"); fi
}

take_option() {
    case "$1" in
        --workers | --services | --epochs | --ranks | --seed) [[ "$2" =~ ^[0-9]+$ ]] || bad_option "$1 is '$2', not a whole number" ;;
    esac
    case "$1" in
        --data) data="$2" ;;
        --recipe) recipe="$2" ;;
        --workers) workers="$2" ;;
        --services) services=(--services "$2") ;;
        --run) run="$2" ;;
        --bind) bind="$2" ;;
        --keys) keys=(--keys "$2") ;;
        --gpus) devices=(--gpus "$2") ;;
        --ranks) ranks="$2" passed_on+=(--ranks "$2") ;;
        *) passed_on+=("$1" "$2") ;;
    esac
}

# Packed beside `data` and then moved, so that an existing `data` is complete.
make_demo_data() {
    lock
    if [[ ! -e "$ROOT/data" ]]; then
        say "making the demo dataset"
        guarded "$VENV/bin/alexnet-pack" --demo "$ROOT/build/demo-data" || exit # it has said why
        mv "$ROOT/build/demo-data" "$ROOT/data"
    fi
    unlock
}

default_recipe() {
    "$VENV/bin/python" -Pc 'import sys; from pathlib import Path; from loader.dataset import Dataset; from loader.packing.demo import DemoSource; sys.exit(Dataset(Path(sys.argv[1])).classes != DemoSource.classes)' \
        "$data/train.lmdb" 2>/dev/null && echo demo || echo source
}

default_devices() {
    local gpus=0
    if command -v nvidia-smi >/dev/null || compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
        gpus="$("$VENV/bin/python" -Pc 'import torch; print(torch.cuda.device_count())')"
    fi
    case "$gpus" in
        0) devices=(--cpu) ;;
        1) if ((ranks == 1)); then devices=(--gpus 0); fi ;;
        *) if ((ranks == 1)); then devices=(--gpus "0,1"); fi ;; # each of several ranks takes its own
    esac
}

# In a session of its own, so that Ctrl-C reaches this script alone and it takes both down in order.
in_background() { setsid setpriv --pdeathsig TERM -- "$@" & }

running() { kill -0 "$1" 2>/dev/null; }

start_loader() {
    local ready_file="$run/loader.endpoint" tenths
    rm -f "$ready_file"
    in_background "$VENV/bin/alexnet-loader" --data "$data" --workers "$workers" --bind "$bind" "${keys[@]}" \
        "${services[@]}" --ready-file "$ready_file" >"$run/loader.log" 2>&1
    loader=$!
    for ((tenths = 0; tenths < READY_LIMIT_S * 10; tenths++)); do
        if [[ -s "$ready_file" ]]; then
            mapfile -t endpoints < <(grep -v '^http:' "$ready_file") # which is that of --metrics
            return
        fi
        [[ -z "$signal" ]] || end_on_signal
        running "$loader" || end_on_loader "failed to start"
        sleep 0.1 || true
    done
    take_down
    show_loader_log
    fail 1 "the loader was not ready within $READY_LIMIT_S s; its log is $run/loader.log"
}

start_trainer() {
    in_background "$VENV/bin/alexnet-trainer" "${endpoints[@]/#/--loader=}" "${keys[@]}" --run "$run" "${devices[@]}" \
        "${passed_on[@]}"
    trainer=$!
}

watch_both() {
    while running "$loader" && running "$trainer" && [[ -z "$signal" ]]; do sleep 0.2 || true; done
    if [[ -n "$signal" ]]; then end_on_signal; fi
    if running "$trainer"; then end_on_loader "ended while training"; fi
    local code=0
    wait "$trainer" 2>/dev/null || code=$?
    if ((code != 0)) && ! running "$loader"; then end_on_loader "ended while training"; fi
    trainer=''
    if ((code == 0)); then write_report; fi
    take_down
    if ((code > 128)); then fail "$code" "the trainer was ended by SIG$(kill -l $((code - 128))); the run is $run"; fi
    if ((code != 0)); then exit "$code"; fi # its own last line has said why
}

# Without it the run is finished all the same.
write_report() {
    local code=0
    say "writing the report; Ctrl-C leaves it out"
    in_background "$VENV/bin/alexnet-report" "$run" "${endpoints[@]/#/--loader=}" "${keys[@]}" "${devices[@]}" --out "$run/report.html"
    reporter=$!
    while running "$reporter" && [[ -z "$signal" ]]; do sleep 0.2 || true; done
    if [[ -n "$signal" ]]; then kill -INT "$reporter" 2>/dev/null || true; fi
    wait "$reporter" 2>/dev/null || code=$?
    reporter=''
    if ((code != 0)); then say "training is finished, and its report is not complete; the run is $run"; fi
}

end_on_signal() {
    take_down
    fail $((128 + $(kill -l "$signal"))) "stopped by SIG$signal; continue with --resume --run $run"
}

end_on_loader() {
    local code=0 reason
    wait "$loader" 2>/dev/null || code=$?
    take_down
    show_loader_log
    reason="$(tail -n 1 "$run/loader.log" | sed 's/.*: error: //')"
    if ((code > 128)); then reason="ended by SIG$(kill -l $((code - 128)))"; fi
    fail "$((code > 0 && code < 128 ? code : 1))" "the loader $1: $reason (log: $run/loader.log)"
}

show_loader_log() { tail -n 10 "$run/loader.log" | in_time sed 's/^/  loader: /' >&2 2>/dev/null || true; }

# The trainer first: it may still be waiting for a batch.
take_down() {
    if [[ -n "$trainer" ]]; then end_process "$trainer"; fi
    if [[ -n "$reporter" ]]; then end_process "$reporter"; fi
    if [[ -n "$loader" ]]; then end_process "$loader"; fi
    trainer='' reporter='' loader=''
    if [[ -t 2 ]]; then in_time printf '\r\033[K' >&2 2>/dev/null || true; fi
}

# SIGTERM, then SIGKILL to all that is left of its process group; a second Ctrl-C does not wait.
end_process() {
    local tenths
    kill -TERM "$1" 2>/dev/null || true
    for ((tenths = 0; tenths < STOP_LIMIT_S * 10 && signals < 2; tenths++)); do
        running "$1" || break
        sleep 0.1 || true
    done
    kill -KILL -- "-$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

read_options "$@"
set_up
if [[ -z "$data" ]]; then
    data="$ROOT/data"
    make_demo_data
fi
if [[ -z "$recipe$resume${ALEXNET_TRAINER_RECIPE-}" ]]; then passed_on+=(--recipe "$(default_recipe)"); fi
run="${run:-$ROOT/runs/$(date +%Y%m%d-%H%M%S)-$$}"
if ((${#devices[@]} == 0)) && [[ -z "${ALEXNET_TRAINER_GPUS-}${ALEXNET_TRAINER_CPU-}" ]]; then default_devices; fi
mkdir -p "$run" || fail 2 "--run $run cannot be made"

loader='' trainer='' reporter='' endpoints=() signal='' signals=0
for name in INT TERM HUP USR1; do
    # shellcheck disable=SC2064
    trap "signal=$name signals=\$((signals + 1))" "$name"
done
trap take_down EXIT
start_loader
say "loader at ${endpoints[*]} with $workers workers, serving $data; the trainer runs with ${devices[*]} ${passed_on[*]}"
start_trainer
watch_both
