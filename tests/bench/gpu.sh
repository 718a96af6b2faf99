#!/usr/bin/env bash
# All that is to be shown on a machine with a GPU, in under ten minutes and without a network:
#
#     tests/bench/gpu.sh CIFAR10 [OUT] [GPUS] [EPOCHS]
#
# CIFAR10  a folder of train/<class>/*, val/<class>/*, which is packed at 256x256
# OUT      folder for the results, runs/gpu
# GPUS     of the halves, 0,0
# EPOCHS   of the source recipe at full width, 40
#
# The schedule's bits, with delays and with each wait taken away; the step beside plain PyTorch; the upload; a real run,
# loader and trainer together, with its table of where a step's time goes. PYTHON names another interpreter; PARTS some
# of "tests step upload train".
set -euo pipefail
cifar10=$1 out=${2:-runs/gpu} gpus=${3:-0,0} epochs=${4:-40}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"
parts=${PARTS:-tests step upload train}
failed=0
wanted() { [[ " $parts " == *" $1 "* ]]; }
run() { # a failure does not keep the rest from being measured
    echo "+ $*"
    "$@" || failed=1
}

if wanted tests; then
    tests=(tests/test_gpu.py tests/test_gpu_exchange.py tests/test_gpu_feed.py tests/test_kernels.py)
    run "$python" -m pytest -p no:cacheprovider "${tests[@]}" > >(tee "$out/tests.log") 2>&1
fi
if wanted step; then
    run "$python" tests/bench/step.py --gpus "$gpus" --precision bf16 tf32 --width 1 --batch 128 512 --rounds 5 \
        > >(tee "$out/step.log") 2>&1
fi
if wanted upload; then
    run "$python" tests/bench/upload.py > >(tee "$out/upload.log") 2>&1
fi
if wanted train; then
    run "$python" -m loader.pack_command "$cifar10" "$out/data" > >(tail -n 2) 2>&1
    "$python" -m loader.command --workers "$(nproc)" --data "$out/data" --bind tcp://127.0.0.1:5590 \
        --ready-file "$out/ready" 2> "$out/loader.log" &
    loader=$!
    trap 'kill "$loader" 2> /dev/null || true; wait' EXIT
    until [ -e "$out/ready" ]; do
        kill -0 "$loader"
        sleep 0.1
    done
    run "$python" -m trainer.command --gpus "$gpus" --loader tcp://127.0.0.1:5590 --recipe source --precision bf16 \
        --epochs "$epochs" --profile 20 --run "$out/cifar10" > >(tee "$out/train.log") 2>&1
    run "$python" tests/bench/curve.py "$out/cifar10" --out "$out/cifar10.svg"
fi
exit "$failed"
