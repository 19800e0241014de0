#!/usr/bin/env bash
# bench/gpu.sh FOLDER: on a machine with a GPU, in under nine minutes and without a network: build, test on the device, sanitize,
# benchmark, beside what bench.gpu_budget predicts. Writes gpu.json, gpu.md, issue.json and the logs to FOLDER. What is not
# installed is skipped by name.
set -uo pipefail
[ $# -eq 1 ] || { echo "usage: bench/gpu.sh FOLDER" >&2; exit 2; }
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
failed=0

step() { printf '\n[%ds] %s\n' "$SECONDS" "$1"; }
# limited SECONDS LOG COMMAND...: the end of the log is shown if the command fails.
limited() {
    local seconds=$1 log="$out/$2"
    shift 2
    timeout "$seconds" "$@" >"$log" 2>&1 && return
    local code=$?
    failed=1
    echo "failed ($code): $*; the end of $log:"
    tail -n 25 "$log"
    return 1
}
has() { python3 -c "import $1" 2>/dev/null; }

step "machine"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || { echo "no NVIDIA GPU"; exit 1; }
for package in torch triton cupy pybind11 ml_dtypes safetensors tqdm hypothesis pytest; do
    python3 -c "import $package; print('$package', $package.__version__)" 2>/dev/null || echo "$package: not installed"
done
capability=$(python3 -c "import torch; print('%d%d' % torch.cuda.get_device_capability())") || exit 1
[ "$capability" = 90 ] && capability=90a

step "build for sm_$capability"
if has pybind11; then
    limited 90 build.log python3 -m pip install --no-build-isolation --no-deps --no-index -e . || exit 1
    FASTREALIGN_CUDA_ARCHITECTURES=$capability limited 150 build-cuda.log \
        python3 -m pip install --no-build-isolation --no-deps --no-index ./csrc/cuda || exit 1
else
    echo "pybind11 is not installed: nothing can be built"
    exit 1
fi

step "tests on the device"
if has pytest; then
    limited 150 tests.log python3 -m pytest -q -o addopts= -p no:cacheprovider -x tests/gpu && tail -n 1 "$out/tests.log"
else
    echo "skipped: pytest is not installed"
fi

step "compute-sanitizer"
for tool in memcheck racecheck; do
    if ! command -v compute-sanitizer >/dev/null; then
        echo "$tool: skipped: compute-sanitizer is not installed"
    elif ! timeout 60 compute-sanitizer --tool $tool --error-exitcode 9 \
        python3 tests/gpu/sanitized.py >"$out/$tool.log" 2>&1; then
        if grep -q "Device not supported\|Unable to attach\|not supported" "$out/$tool.log"; then
            echo "$tool: skipped: $(grep -m1 -i "not supported\|unable" "$out/$tool.log")"
        else
            failed=1
            echo "$tool: failed, see $out/$tool.log"
            tail -n 15 "$out/$tool.log"
        fi
    else
        echo "$tool: $(grep -i "summary" "$out/$tool.log" | tail -n 1)"
    fi
done

step "benchmark"
# What is left of nine minutes: all widths, or two of them.
left=$((470 - SECONDS))
quick=$([ $left -lt 240 ] && echo --quick)
limited $left bench.log python3 -m bench.gpu ${quick:-} --out "$out/gpu.json" &&
    python3 -m bench.table "$out/gpu.json" >"$out/gpu.md" && sed '$d' "$out/bench.log" | tail -n 60

step "issue slots"
if [ $SECONDS -lt 500 ]; then
    limited $((530 - SECONDS)) issue.log python3 -m bench.gpu_issue --out "$out/issue.json" && cat "$out/issue.log"
else
    echo "skipped: no time is left"
fi

step "done; see $out"
exit $failed
