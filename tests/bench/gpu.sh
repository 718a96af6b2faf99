#!/usr/bin/env bash
# All that is to be shown on a machine with a GPU and without a network, meant to take less than ten minutes:
#
#     tests/bench/gpu.sh CIFAR10 [OUT] [GPUS] [EPOCHS]
#
# CIFAR10  a folder of train/<class>/*, val/<class>/*, which is packed at 256x256
# OUT      folder for the results, runs/gpu
# GPUS     of the halves, 0,0; or cpu, to try the script itself
# EPOCHS   of the source recipe, 40
#
# The schedule's bits, with delays and with each wait taken away; the step beside plain PyTorch; the upload; a real run,
# loader and trainer together, with its table of where a step's time goes. PYTHON names another interpreter; PARTS some
# of "tests step upload train"; WIDTH another than the full network's 1; BATCHES others than the steps' 128 and 512,
# ROUNDS than their 5, ALGORITHMS one of the steps' two settings, repeatable or any.
set -euo pipefail
cifar10=$1 out=${2:-runs/gpu} gpus=${3:-0,0} epochs=${4:-40}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-.venv/bin/python} parts=${PARTS:-tests step upload train} width=${WIDTH:-1}
read -ra batches <<< "${BATCHES:-128 512}"
step_devices=(--gpus "$gpus") train_devices=(--gpus "$gpus")
if [[ $gpus == cpu ]]; then step_devices=() train_devices=(--cpu); fi
mkdir -p "$out"
failed=0
wanted() { [[ " $parts " == *" $1 "* ]]; }
run() { # a failure does not keep the rest from being measured
    echo "+ $*"
    "$@" || failed=1
}

if wanted tests; then
    tests=(tests/gpu/test_gpu.py tests/gpu/test_gpu_exchange.py tests/gpu/test_gpu_feed.py tests/trainer/network/test_kernels.py)
    run "$python" -m pytest -p no:cacheprovider "${tests[@]}" > >(tee "$out/tests.log") 2>&1
fi
if wanted step; then
    run "$python" tests/bench/step.py "${step_devices[@]}" --precision bf16 tf32 --width "$width" \
        --batch "${batches[@]}" --rounds "${ROUNDS:-5}" \
        ${ALGORITHMS:+--algorithms "$ALGORITHMS"} > >(tee "$out/step.log") 2>&1
fi
if wanted upload && [[ $gpus != cpu ]]; then
    run "$python" tests/bench/upload.py > >(tee "$out/upload.log") 2>&1
fi
if wanted train; then
    "$python" -m loader.cli.pack_command "$cifar10" "$out/data" > >(tail -n 2) 2>&1 || exit
    rm -f "$out/ready"
    "$python" -m loader.cli.serve_command --workers "$(nproc)" --data "$out/data" --bind "tcp://127.0.0.1:*" \
        --ready-file "$out/ready" 2> "$out/loader.log" &
    loader=$!
    trap 'kill "$loader" 2> /dev/null || true; wait' EXIT
    for ((tenths = 0; tenths < 600; tenths++)); do
        if [[ -s $out/ready ]] || ! kill -0 "$loader" 2> /dev/null; then break; fi
        sleep 0.1
    done
    if [[ ! -s $out/ready ]]; then cat "$out/loader.log" && exit 1; fi
    run "$python" -m trainer.cli.train_command "${train_devices[@]}" --loader "$(cat "$out/ready")" --recipe source --precision bf16 \
        --width "$width" --epochs "$epochs" --profile 20 --run "$out/cifar10" > >(tee "$out/train.log") 2>&1
    run "$python" -m trainer.cli.report_command "$out/cifar10" --data "$out/data" "${train_devices[@]}" --out "$out/report.html"
fi
exit "$failed"
