// Sums over a block and over a grid, in a fixed order. Each block of a grid leaves its part in
// memory, and the last block to finish adds the parts up.

#pragma once

#include "memory.cuh"

// The sum of x over a block of one dimension, in its thread 0.
template <class T>
__device__ T block_sum(T x) {
    __shared__ T sums[LANES];
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    for (int far = LANES / 2; far; far /= 2) x += __shfl_down_sync(WARP, x, far);
    __syncthreads();  // the sums of an earlier call have been read
    if (lane == 0) sums[warp] = x;
    __syncthreads();
    if (warp == 0) {
        x = lane < int(blockDim.x) / LANES ? sums[lane] : T(0);
        for (int far = LANES / 2; far; far /= 2) x += __shfl_down_sync(WARP, x, far);
    }
    return x;
}

// Whether this block is the last one of `blocks` to arrive here. The last one sees all that the
// others wrote before they arrived, and finds the counter reset to 0. One thread fences for its
// block, whose writes it sees since the barrier.
__device__ inline bool is_last_block(unsigned* counter, unsigned blocks) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        __threadfence();
        last = atomicInc(counter, blocks - 1) == blocks - 1;
        if (last) __threadfence();
    }
    __syncthreads();
    return last;
}

// The sum of x over a grid of one dimension. True in the last block, whose thread 0 has it in x.
template <class T>
__device__ bool grid_sum(T& x, T* partials, unsigned* counter) {
    x = block_sum(x);
    if (threadIdx.x == 0) partials[blockIdx.x] = x;
    if (!is_last_block(counter, gridDim.x)) return false;
    x = 0;
    for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) x += __ldcg(partials + i);
    x = block_sum(x);
    return true;
}
