#!/usr/bin/env bash
# test_bundle.sh BUILD: a bundle of the build runs at another path, with no library of this machine's but the C library.
set -euo pipefail
here=$(dirname "$0")
folder=$(mktemp --directory)
trap 'rm -rf "$folder"' EXIT
"$here/bundle.py" make "$1" "$folder/made"
mv "$folder/made" "$folder/moved"
found=0
for program in "$folder"/moved/programs/* "$folder"/moved/openmpi/*.so "$folder"/moved/pmix/*.so; do
    others=$(LD_LIBRARY_PATH=$folder/moved/lib ldd "$program" |
        grep -Ev "$folder/moved/|linux-vdso|ld-linux|lib(c|m|dl|rt|pthread|resolv|util|cublas|cublasLt|nccl)\.so" || true)
    if [[ -n $others ]]; then
        echo "$program: $others" >&2
        found=1
    fi
done
env --ignore-environment PATH="$PATH" HOME="$folder" "$here/bundle.py" test "$folder/moved" \
    '^(unit_device|unit_gpu_memory|mpi_reduce_nccl_2)$'
exit "$found"
