#!/usr/bin/env bash
# Measure FLUX.1-dev's size (docs/full_size.md) on a GPU machine without network, git and pip.
#
#   run.sh pack [FOLDER]               here: wheels and the committed source into FOLDER, .gpu of the checkout by default
#   run.sh thin | whole                here: take large files that are not needed there out of the checkout; put them back
#   run.sh device SECONDS              there, of the copied FOLDER: measure, what no GPU has measured first; results go to $OUT
#   run.sh unpack RESULTS [FOLDER]     here: records and tables to runs/offline_gpu, and FOLDER's next call goes on from them
#   run.sh try SECONDS [FOLDER]        here: the device side on the CPU at tiny sizes, with PYTHON, such as that machine's
#   run.sh plan                        the steps, and the least and most seconds of each
#
# That machine needs Python 3.12 (pack for another one with PYTHON_THERE=3.13), torch, torchvision, transformers and scipy.
# RETRY=1 takes again what failed.
set -uo pipefail

# What torch, torchvision, transformers and scipy do not bring along; constraints.txt says which version.
WHEELS=(accelerate attrs certifi charset-normalizer cyclopts diffusers docstring_parser filelock ftfy idna
        importlib_metadata lazy-importer lazy-loader markdown-it-py mdurl msgspec nvidia-ml-py open_clip_torch peft psutil
        Pygments requests rich rich-rst timm torch_fidelity urllib3 wcwidth zipp)
SOURCE=(fastflux bench prompts experiments/offline_gpu .git_archival.txt ':(exclude)bench/shapes/weights')
HEAVY=(bench/shapes/weights reports/generated reports/data/galleries)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(git -C "$here" rev-parse --show-toplevel 2>/dev/null)   # empty on the GPU machine
python=${PYTHON:-python3}

die() { echo "error: $*" >&2; exit 1; }

pack() {
    local folder=${1:-$root/.gpu} platforms=() n
    for n in 2_39 2_35 2_34 2_31 2_28 2_27 2_24 2_17 2_12 2_5; do platforms+=(--platform "manylinux_${n}_x86_64"); done
    for n in 2014 2010 1; do platforms+=(--platform "manylinux${n}_x86_64"); done
    rm -rf "$folder/whl"; mkdir -p "$folder/whl"
    "$python" -m pip download -q --no-deps --only-binary=:all: --implementation cp --python-version "${PYTHON_THERE:-3.12}" \
        "${platforms[@]}" -c "$root/constraints.txt" -d "$folder/whl" "${WHEELS[@]}" || die "pip could not fetch the wheels"
    [ -z "$(git -C "$root" status --porcelain --untracked-files=no)" ] || echo "note: what is not committed stays here" >&2
    git -C "$root" archive --format=tar HEAD -- "${SOURCE[@]}" | gzip -9n >"$folder/source.tar.gz" || die "git archive failed"
    cp "$here/run.sh" "$folder/run.sh"
    du -shc --apparent-size "$folder" $(cd "$root" && git ls-files -z | xargs -0 ls -d 2>/dev/null | sed "s|^|$root/|") 2>/dev/null |
        sed -n '1s/\t/ in /p; $s/\ttotal/ with all tracked files of this checkout, for machines that get both/p'
}

thin() {
    [ -z "$(git -C "$root" status --porcelain -- "${HEAVY[@]}")" ] || die "${HEAVY[*]} hold changes: commit them first"
    { echo '/*'; printf '!/%s/\n' "${HEAVY[@]}"; } | git -C "$root" sparse-checkout set --no-cone --stdin &&
        echo "without ${HEAVY[*]}, which tests and reports need: \`$here/run.sh whole\` brings them back"
}

whole() { git -C "$root" sparse-checkout disable; }

unpack() {
    local from=${1:?the folder with what came back} to=$root/runs/offline_gpu folder
    mkdir -p "$to" && tar -xzf "$from/runs.tar.gz" -C "$to" || die "$from has no runs.tar.gz"
    cp "$from"/*.txt "$to"; install -m 644 "$from/runs.tar.gz" "${2:-$root/.gpu}/runs.tar.gz" || die "nothing was packed here"
    for folder in "$to"/runs/*/*/*/records; do
        (cd "$root" && "$python" -m reports full_size "$folder") >"${folder%/records}/tables.md" || die "no tables of $folder"
        echo "${folder%/records}/tables.md"
    done
}

device() {
    local seconds=${1:?seconds to measure} out=${OUT:?the folder for results} work=${WORK:-/tmp/fastflux-gpu}
    local status=0 remaining before=-1 tried=0 wheel beside
    mkdir -p "$work/home" "$work/runs" "$out" || exit 1
    [ -w "${HOME:-/nonexistent}" ] || export HOME=$work/home
    export HF_HUB_OFFLINE=1 HF_HOME=$work/home TORCH_HOME=$work/home XDG_CACHE_HOME=$work/home PYTHONUNBUFFERED=1 \
        TRITON_CACHE_DIR=$work/triton TORCHINDUCTOR_CACHE_DIR=$work/inductor TOKENIZERS_PARALLELISM=false COLUMNS=160
    { date -u; uname -a; nvidia-smi; nvidia-smi -q -d CLOCK,POWER | head -60; free -g; df -h "$work"; nproc; "$python" -V
    } >"$out/machine.txt" 2>&1
    if ! cmp -s "$here/source.tar.gz" "$work/source.tar.gz"; then   # a wheel is a zip of what is to be imported
        rm -rf "$work/source" "$work/site"; mkdir -p "$work/source" "$work/site"
        tar -xzf "$here/source.tar.gz" -C "$work/source" || die "no source: pack first"
        for wheel in "$here"/whl/*.whl; do "$python" -m zipfile -e "$wheel" "$work/site" || die "cannot unpack $wheel"; done
        cp "$here/source.tar.gz" "$work/source.tar.gz"
    fi
    [ ! -f "$here/runs.tar.gz" ] || [ -n "$(find "$work/runs" -name '*.json' -print -quit)" ] || tar -xzf "$here/runs.tar.gz" -C "$work"
    exec 3>&1 >>"$work/log.txt" 2>&1
    trap "tail -c 15000000 '$work/log.txt' >'$out/log.txt'" EXIT
    rm -f "$work/tried" "$work/summary.txt"
    export PYTHONPATH=$work/source:$work/site
    local driver=("$python" "$work/source/experiments/offline_gpu/driver.py" "$work" "$out")
    cd "$work/source" || exit 1
    # Counting takes a core, and no GPU; not while the other process imports.
    (sleep 30; remaining=$((seconds - SECONDS)); [ "$remaining" -gt 0 ] && exec env CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 \
        nice timeout --kill-after=5 "$remaining" "${driver[@]}" "$remaining" flops) &
    beside=$!
    while remaining=$((seconds - SECONDS)); [ "$remaining" -ge 20 ] && [ "$tried" -gt "$before" ]; do
        before=$tried   # again where an error has cost the process its GPU or its life: the steps behind that one
        timeout --kill-after=5 "$remaining" "${driver[@]}" "$remaining"; status=$?
        case $status in 0 | 124) break ;; esac   # done, or stopped for the time
        tried=$(wc -l <"$work/tried" || echo 0)
    done
    kill "$beside"; wait "$beside"
    [ "$status" = 0 ] || timeout 60 "${driver[@]}" 0   # what was finished before it was stopped
    exec >&3 3>&-
    cat "$out/summary.txt"; ls -l "$out"; echo "ended with $status after $SECONDS s"
    return "$status"
}

try() {
    local folder; folder=$(mktemp -d) && cp -r "${2:-$root/.gpu}/." "$folder/payload" && echo "in $folder" || die "pack first"
    env -u PYTHONPATH TINY=1 OUT="$folder/out" WORK="$folder/work" bash "$folder/payload/run.sh" device "${1:?seconds}"
}

case "${1:-}" in
    plan) "$python" "$here/driver.py" plan ;;
    pack | thin | whole | unpack | device | try) "$@" ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac; exit   # in one line: bash reads no further, whatever becomes of this file meanwhile
