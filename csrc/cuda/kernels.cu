// The kernels as nvcc builds them, under the names by which passes.cpp finds them.
#include <cuda_bf16.h>
#include <mma.h>

#include "cuda/calls.h"

namespace poco {
namespace cuda {

__device__ inline unsigned char* block_memory() {
    extern __shared__ __align__(128) unsigned char poco_block_memory[];
    return poco_block_memory;
}

__device__ inline float wide(__nv_bfloat16 value) {
    return __bfloat162float(value);
}

__device__ inline void narrow(float value, __nv_bfloat16& to) {
    to = __float2bfloat16(value);
}

// A tile by a warp on tensor cores, with sums in float32.
__device__ inline void tile_product(const __nv_bfloat16* a, int a_row, const __nv_bfloat16* b, int b_row, float* c,
                                    int c_row, int inner, bool more) {
    namespace wmma = nvcuda::wmma;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum[2];
    for (int half = 0; half < 2; ++half) {
        if (more) {
            wmma::load_matrix_sync(sum[half], c + 16 * half, c_row, wmma::mem_row_major);
        } else {
            wmma::fill_fragment(sum[half], 0.0f);
        }
    }
    for (int k = 0; k < inner; k += 16) {
        wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, wmma::row_major> of_a;
        wmma::load_matrix_sync(of_a, a + k, a_row);
        for (int half = 0; half < 2; ++half) {
            wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, wmma::row_major> of_b;
            wmma::load_matrix_sync(of_b, b + static_cast<long long>(k) * b_row + 16 * half, b_row);
            wmma::mma_sync(sum[half], of_a, of_b, sum[half]);
        }
    }
    for (int half = 0; half < 2; ++half) wmma::store_matrix_sync(c + 16 * half, sum[half], c_row, wmma::mem_row_major);
}

}  // namespace cuda
}  // namespace poco

#include "cuda/kernels.h"

using namespace poco::cuda;

#define POCO_KERNEL(name, call, body)                                              \
    extern "C" __global__ void __launch_bounds__(kThreads, 1) name(const call c) { \
        body(c);                                                                   \
    }

POCO_KERNEL(poco_pool_parts_float32, PoolParts<float>, pool_parts)
POCO_KERNEL(poco_pool_parts_bfloat16, PoolParts<__nv_bfloat16>, pool_parts)
POCO_KERNEL(poco_pool_merge, PoolMerge, pool_merge)
POCO_KERNEL(poco_token_product_float32, TokenProduct<float>, token_product)
POCO_KERNEL(poco_token_product_bfloat16, TokenProduct<__nv_bfloat16>, token_product)
POCO_KERNEL(poco_turned_sum, TurnedSum, turned_sum)
POCO_KERNEL(poco_attend, Attend, attend)
POCO_KERNEL(poco_film_forecast_float32, Film<float>, film_forecast)
POCO_KERNEL(poco_film_forecast_bfloat16, Film<__nv_bfloat16>, film_forecast)
