#!/usr/bin/env bash
# Fetches what AlexNet needs on an x86-64 machine that has no network, but torch, Triton, numpy, OpenCV and Pillow (and for
# alexnet-report matplotlib):
#
#     deploy/gpu-wheels.sh FOLDER [PYTHON] [PACKAGE...]
#
# FOLDER   gets the wheels, some 4 MB, in the versions of deploy/constraints.txt; and this machine's libturbojpeg.so.0
# PYTHON   version of the other machine's, 3.12
# PACKAGE  others than those below
#
# There, with FOLDER beside the checkout, CARRIED=FOLDER tests/bench/gpu.sh installs those that are missing. By hand:
# pip install --no-index --no-deps --target SITE FOLDER/*.whl, then PYTHONPATH=.:SITE LD_LIBRARY_PATH=FOLDER.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:?FOLDER is missing: deploy/gpu-wheels.sh FOLDER [PYTHON] [PACKAGE...]} version=${2:-3.12}
packages=("${@:3}")
if ((${#packages[@]} == 0)); then
    packages=(pyzmq lmdb PyTurboJPEG simplejpeg msgpack xxhash click safetensors Jinja2 MarkupSafe)
    packages+=(pytest pytest-timeout hypothesis iniconfig pluggy packaging Pygments sortedcontainers) # tests/bench/gpu.sh
fi
python=.venv/bin/python
[[ -x $python ]] || python=python3
platforms=()
for tag in manylinux1 manylinux2014 manylinux_2_{5,12,17,24,26,27,28,31,34}; do platforms+=(--platform "${tag}_x86_64"); done
mkdir -p "$folder"
for package in "${packages[@]}"; do
    pinned=$(grep -i "^$package==" deploy/constraints.txt) || { echo "$package is not in deploy/constraints.txt" >&2 && exit 2; }
    "$python" -m pip download -q --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
        "${platforms[@]}" -d "$folder" "$pinned" 2> /dev/null ||
        "$python" -m pip wheel -q --no-deps -w "$folder" "$pinned" # published as source alone
done
library=$(ldconfig -p | sed -n 's/.*libturbojpeg\.so\.0 .*x86-64.* => //p' | head -n 1)
if [[ -n $library ]]; then cp "$(readlink -f "$library")" "$folder/libturbojpeg.so.0"; fi # else simplejpeg's serves
ls -l "$folder"
