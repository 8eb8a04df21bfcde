// Parameters as the CUDA kernels want them, copied to the GPU: weights the other way round, and filled up with zeros.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "cpu/bfloat16.h"
#include "cuda/calls.h"
#include "cuda/gpu.h"

namespace poco {

template <typename T>
class CudaWeights {
public:
    explicit CudaWeights(Gpu& gpu) : gpu_(gpu) {}

    // from [columns, inner] -> [inner filled to whole tiles, columns filled up to `of`]; several lie side by side.
    const T* weight(std::initializer_list<const T*> from, int64_t columns, int64_t inner, int of) const {
        const int64_t filled = cuda::whole(static_cast<int>(columns), of);
        const int64_t row = static_cast<int64_t>(from.size()) * filled;
        Buffer<T> to(static_cast<size_t>(cuda::whole(static_cast<int>(inner), cuda::kPanel) * row), T{});
        int64_t first = 0;
        for (const T* const one : from) {
            for (int64_t i = 0; i < inner; ++i) {
                for (int64_t j = 0; j < columns; ++j) to[static_cast<size_t>(i * row + first + j)] = one[j * inner + i];
            }
            first += filled;
        }
        return gpu_.copy(to);
    }

    // The same from [inner, columns], which lies as is wanted.
    const T* turned_weight(const T* from, int64_t columns, int64_t inner, int of) const {
        const int64_t row = cuda::whole(static_cast<int>(columns), of);
        Buffer<T> to(static_cast<size_t>(cuda::whole(static_cast<int>(inner), cuda::kPanel) * row), T{});
        for (int64_t i = 0; i < inner; ++i) std::copy_n(from + i * columns, columns, to.data() + i * row);
        return gpu_.copy(to);
    }

    // [count filled up to `of`] in float32; several lie side by side.
    const float* vector(std::initializer_list<const T*> from, int64_t count, int of = 1) const {
        const int64_t filled = cuda::whole(static_cast<int>(count), of);
        Floats to(from.size() * static_cast<size_t>(filled), 0.0f);
        float* first = to.data();
        for (const T* const one : from) {
            for (int64_t j = 0; j < count; ++j) first[j] = to_float(one[j]);
            first += filled;
        }
        return gpu_.copy(to);
    }

private:
    Gpu& gpu_;
};

}  // namespace poco
