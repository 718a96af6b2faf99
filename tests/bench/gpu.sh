#!/usr/bin/env bash
# All that is to be shown on a machine with a GPU and without a network, in less than ten minutes:
#
#     tests/bench/gpu.sh CIFAR10 [OUT] [GPUS] [EPOCHS]
#
# CIFAR10  train/<class>/*, val/<class>/*: a folder, or a tar archive of it; packed at 256x256
# OUT      folder for the results, runs/gpu: at most 8 files of at most 16 MiB, written as they come
# GPUS     of the halves, 0,0; or cpu, to try the script itself: small, through in minutes
# EPOCHS   of the source recipe, 40; on cpu 2
#
# In this order: a whole training, loader and trainer together, and what its epochs waited for; its evaluation with one
# and with ten views; a run that is resumed, whose losses have to be those of the whole training, with its profile; two
# ranks beside one, if there are two GPUs; a report; the step beside plain PyTorch, with its kernels; the schedule's
# bits, with delays and with each wait taken away; the upload.
#
# Each part has a time limit, and all together 570 s: what is not done by then is stopped. A part that fails, is killed or
# is stopped keeps no other from running; OUT/summary.txt tells how each ended. SLACK=2 doubles the limits. PARTS names
# some of "train evaluate resume ranks report step tests upload".
#
# PYTHON names another interpreter; CARRIED a folder made by deploy/gpu-wheels.sh, for packages that PYTHON lacks;
# WORKERS those of the loader, the cores but four; SCRATCH another place for data and runs than the memory disk. Others
# than the usual: WIDTH 1, BATCH the recipe's, LOG_STEPS 10, RESUMED 200, the steps before and after the resume; of the
# step BATCHES 128 512, PRECISIONS bf16 tf32, ROUNDS 5, ALGORITHMS repeatable any.
set -euo pipefail
cifar10=$(realpath -m "$1") out=$(realpath -m "${2:-runs/gpu}") gpus=${3:-0,0} epochs=${4:-}
if [[ $gpus == cpu ]]; then
    : "${epochs:=2}" "${WIDTH:=0.05}" "${BATCH:=16}" "${RESUMED:=20}" "${BATCHES:=4}" "${ROUNDS:=1}"
fi
epochs=${epochs:-40} carried=${CARRIED:+$(realpath "$CARRIED")}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
parts=${PARTS:-train evaluate resume ranks report step tests upload}
python=${PYTHON:-.venv/bin/python} slack=${SLACK:-1} cores=$(nproc)
workers=${WORKERS:-$((cores > 5 ? cores - 4 : 1))} resumed=${RESUMED:-200} width=${WIDTH:-1}
read -ra batches <<< "${BATCHES:-128 512}"
most_bytes=$((16 << 20))
step_devices=(--gpus "$gpus") devices=(--gpus "$gpus")
if [[ $gpus == cpu ]]; then step_devices=() devices=(--cpu); fi
failed=0 status=0 part='' loader='' scratch='' summary=''

wanted() { [[ " $parts " == *" $1 "* ]]; }

memory_disk() { # if it has room for the data and the checkpoints
    local free
    free=$(df --output=avail -k /dev/shm 2> /dev/null | tail -n 1) || free=0
    if ((free > 6 << 20)); then echo /dev/shm; else echo "${TMPDIR:-/tmp}"; fi
}

tell() { # TEXT: in the summary
    summary+="$1"$'\n'
    echo "$1" >> "$out/summary.txt" || true
}

ended_within() { # TENTHS PROCESS: true if it ends within so many tenths of a second
    local tenths
    for ((tenths = 0; tenths < $1 * (slack ? slack : 1); tenths++)); do
        kill -0 "$2" 2> /dev/null || return 0
        sleep 0.1
    done
    return 1
}

run() { # PART SECONDS COMMAND...: sets `status`; a failure does not keep the rest from being measured
    local limit=$(($2 * slack)) left=$((570 * slack - SECONDS)) start=$SECONDS tee current
    part=$1
    shift 2
    if ((limit > left)); then limit=$left; fi
    exec 3> >(exec tee -p -a "$out/$(log_of "$part")")
    tee=$!
    if ((limit > 0)); then
        echo "+ $*" >&3 || true
        timeout -k 10 "$limit" "$@" >&3 2>&1 3>&- &
        current=$! status=0
        wait "$current" || status=$?
        kill -9 -- "-$current" 2> /dev/null || true # what it left behind, which would disturb the others
    else
        status=124
    fi
    exec 3>&-
    ended_within 20 "$tee" || kill "$tee" || true # its output may be held open all the same
    if ((status == 137 && SECONDS - start >= limit)); then status=124; fi
    case $status in
        0) tell "$part: done in $((SECONDS - start)) s" ;;
        124) tell "$part: out of time after $((SECONDS - start)) s: $*" ;;
        137) tell "$part: killed after $((SECONDS - start)) s: $*" ;;
        *) tell "$part: failed ($status): $*" ;;
    esac
    if ((status)); then failed=1; fi
    part=''
}

log_of() { # few files: others may be limited to 8
    case $1 in
        step* | upload) echo step.log ;;
        tests) echo tests.log ;;
        ranks) echo ranks.log ;;
        *) echo train.log ;;
    esac
}

keep() { # FILE NAME: a copy in OUT, if it is small
    local bytes
    if ! bytes=$(stat -c %s "$1" 2> /dev/null); then
        tell "$2: missing"
    elif ((bytes > most_bytes)); then
        tell "$2: too large to keep"
    elif ! cp "$1" "$out/$2"; then
        rm -f "$out/$2"
        tell "$2: could not be kept"
        failed=1
    fi
}

end() { # PROCESS
    local tries
    for ((tries = 0; tries < 3; tries++)); do
        if ! kill "$1" 2> /dev/null || ended_within 50 "$1"; then return 0; fi
    done
    kill -9 "$1" || true
}

stop_loader() {
    if [[ -z $loader ]]; then return 0; fi
    end "$loader"
    loader=''
    cat "$scratch/loader.log" >> "$out/train.log" || true
}

finish() {
    local process
    trap '' INT TERM HUP
    for process in $(jobs -p); do # one may run that no variable names yet
        end "$process"
        kill -9 -- "-$process" 2> /dev/null || true
    done
    if [[ -n $part ]]; then
        if [[ -f $whole/metrics.jsonl ]]; then keep "$whole/metrics.jsonl" metrics.jsonl; fi
        tell "$part: stopped"
    fi
    stop_loader
    shorten_logs
    rm -rf "$scratch"
}
trap '' PIPE # what is printed may find no reader; OUT does
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

shorten_logs() { # each to its end
    local log
    for log in "$out"/*.log; do
        if [[ -f $log ]] && (($(stat -c %s "$log") > most_bytes)); then
            tail -c "$most_bytes" "$log" > "$scratch/log" && cp "$scratch/log" "$log" || true
        fi
    done
}

prepare() { # packages that PYTHON lacks, and this checkout's own metadata
    local site="$scratch/site" absent=()
    mkdir "$site"
    export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
    if [[ -n $carried ]]; then
        export LD_LIBRARY_PATH="$carried${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" # of libturbojpeg
        mapfile -t absent < <(lacking "$carried"/*.whl)
        if ((${#absent[@]})); then
            run prepare 60 "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "${absent[@]}"
        fi
    fi
    if [[ -n $(lacking alexnet-) ]]; then
        run prepare 30 "$python" -c 'import setuptools; setuptools.setup()' -q egg_info --egg-base "$site"
    fi
}

lacking() { # WHEEL...: those whose package PYTHON lacks
    "$python" - "$@" << 'END'
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

for wheel in sys.argv[1:]:
    try:
        version(Path(wheel).name.split("-")[0])
    except PackageNotFoundError:
        print(wheel)
END
}

pack() {
    if [[ -f $cifar10 ]]; then
        mkdir "$scratch/photos"
        run unpack 60 tar -xf "$cifar10" -C "$scratch/photos"
        cifar10=$scratch/photos
    fi
    run pack 120 "$python" -m loader.cli.pack_command "$cifar10" "$scratch/data"
}

start_loader() { # returns once it is ready
    rm -f "$scratch/ready"
    "$python" -m loader.cli.serve_command --workers "$workers" --data "$scratch/data" --bind "tcp://127.0.0.1:*" \
        --ready-file "$scratch/ready" 2> "$scratch/loader.log" &
    loader=$!
    for ((tenths = 0; tenths < 600 * slack; tenths++)); do
        if [[ -s $scratch/ready ]] || ! kill -0 "$loader" 2> /dev/null; then break; fi
        sleep 0.1
    done
    if [[ ! -s $scratch/ready ]]; then
        cat "$scratch/loader.log"
        failed=1
        return 1
    fi
    address=$(cat "$scratch/ready")
    train=("$python" -m trainer.cli.train_command --loader "$address" --recipe source --precision bf16 --width "$width"
        --epochs "$epochs" --log-steps "${LOG_STEPS:-10}" --keep 1 ${BATCH:+--batch-size "$BATCH"})
}

loader_lives() { # again, if it has ended
    if kill -0 "$loader" 2> /dev/null; then return 0; fi
    tell "loader: ended, started again"
    failed=1
    stop_loader
    start_loader
}

with_the_loader() {
    local runs=tests/bench/gpu_runs.py other=$scratch/resumed
    if wanted train; then
        run train 240 "${train[@]}" "${devices[@]}" --run "$whole"
        run waits 20 "$python" $runs waits "$whole"
        keep "$whole/metrics.jsonl" metrics.jsonl
    fi
    if wanted evaluate && loader_lives; then
        run evaluate 60 "$python" -m trainer.cli.evaluate_command "$whole" --loader "$address" "${devices[@]}"
    fi
    if wanted resume && loader_lives; then
        run resume 60 "${train[@]}" "${devices[@]}" --run "$other" --steps "$resumed"
        run resume 60 "${train[@]}" "${devices[@]}" --run "$other" --steps $((2 * resumed)) --resume --profile 20
        run resume 20 "$python" $runs same "$whole" "$other"
        gzip -c "$other/trace.json" > "$scratch/trace.json.gz" || rm -f "$scratch/trace.json.gz"
        keep "$scratch/trace.json.gz" trace.json.gz
        rm -rf "$other"
    fi
    if wanted ranks && loader_lives; then ranks; fi
}

ranks() { # a GPU each, beside one rank
    local one=(--gpus 0) each=(--gpus-per-rank 1) steps=$((2 * resumed)) kind
    if [[ $gpus == cpu ]]; then
        one=(--cpu) each=(--cpu)
    elif (($("$python" -c 'import torch; print(torch.cuda.device_count())') < 2)); then
        tell "ranks: there is one GPU"
        return
    fi
    run ranks 60 "${train[@]}" "${one[@]}" --parts 2 --steps "$steps" --run "$scratch/1-rank"
    for kind in ordered fast; do
        run ranks 90 "${train[@]}" "${each[@]}" --ranks 2 --reduce "$kind" --steps "$steps" --run "$scratch/$kind"
        run ranks 20 "$python" tests/bench/gpu_runs.py waits "$scratch/$kind"
    done
    run ranks 20 "$python" tests/bench/gpu_runs.py same "$scratch/1-rank" "$scratch/ordered"
    rm -rf "$scratch/1-rank" "$scratch/ordered" "$scratch/fast"
}

steps() { # each precision in a process of its own, as it trains and with any algorithm
    local algorithms precision
    for algorithms in ${ALGORITHMS:-repeatable any}; do
        for precision in ${PRECISIONS:-bf16 tf32}; do
            run "step $precision, $algorithms" 60 "$python" tests/bench/step.py "${step_devices[@]}" --width "$width" \
                --precision "$precision" --algorithms "$algorithms" --batch "${batches[@]}" --rounds "${ROUNDS:-5}" --kernels
        done
    done
}

main() {
    mkdir -p "$out"
    scratch=$(mktemp -d -p "${SCRATCH:-$(memory_disk)}")
    whole=$scratch/cifar10
    prepare
    if wanted train || wanted evaluate || wanted resume || wanted ranks; then
        pack
        if ((status == 0)) && start_loader; then with_the_loader; fi
        stop_loader
    fi
    if wanted report && [[ -d $whole ]]; then
        run report 60 "$python" -m trainer.cli.report_command "$whole" --data "$scratch/data" "${devices[@]}" \
            --out "$scratch/report.html"
        keep "$scratch/report.html" report.html
    fi
    if wanted step; then steps; fi
    if wanted tests; then
        run tests 300 "$python" -m pytest -p no:cacheprovider -vv -W default --timeout 120 tests/gpu/test_gpu.py \
            tests/gpu/test_gpu_exchange.py tests/gpu/test_gpu_feed.py tests/trainer/network/test_kernels.py
    fi
    if wanted upload && [[ $gpus != cpu ]]; then run upload 60 "$python" tests/bench/upload.py; fi
    echo "$summary" || true
    exit "$failed"
}

main
