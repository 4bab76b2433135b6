#!/usr/bin/env bash
# Builds what the later steps of .ci/run use optimised, with the options that they use, so that they
# find it built. Takes minutes; .ci/run runs it beside other steps.
#
# Exit codes: those of cargo.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --release --locked --no-run -p virtio-blk-sim --lib
cargo test --release --locked --no-run -p aio-context --test bounded --test doorbells
RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p aio-context --release --locked --lib --no-run
cargo build --release --locked -p aio-context --example loop_under_faults
cargo build --release --locked -p virtio-blk-sim --bin vhost-user-blk
cargo build --release --locked -p bench --features peers
# Last, because the steps that use the program without peers come after this.
cargo build --release --locked -p bench
cargo test --release --locked --no-run -p bench --test costs
