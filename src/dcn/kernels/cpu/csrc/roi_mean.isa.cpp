#include "roi_mean.h"
#include "vec.h"

namespace dcn {
namespace DCN_ISA {
namespace {

// `Vectors` vectors of channels stay in registers while all taps of a bin pass.
template <class T, int Vectors>
void gather_run(T* out, const T* data, const int64_t* offsets, const T* weights, int64_t taps) {
    constexpr int n = lanes<T>;
    Vec<T> sum[Vectors] = {};
    for (int64_t tap = 0; tap < taps; ++tap) {
        const T* pixel = data + offsets[tap];
        const Vec<T> weight = splat(weights[tap]);
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) sum[v] += weight * load(pixel + v * n);
    }
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) store(out + v * n, sum[v]);
}

template <class T>
void gather(T* out, const T* data, const int64_t* offsets, const T* weights, int64_t taps, int64_t channels) {
    constexpr int n = lanes<T>;
    int64_t c = 0;
    for (; c + 4 * n <= channels; c += 4 * n) gather_run<T, 4>(out + c, data + c, offsets, weights, taps);
    for (; c + n <= channels; c += n) gather_run<T, 1>(out + c, data + c, offsets, weights, taps);
    for (; c < channels; ++c) {
        T sum = 0;
        for (int64_t tap = 0; tap < taps; ++tap) sum += weights[tap] * data[offsets[tap] + c];
        out[c] = sum;
    }
}

template <class T>
void scatter(T* data, const int64_t* offsets, const T* weights, int64_t taps, const T* __restrict grad,
             int64_t channels) {
    for (int64_t tap = 0; tap < taps; ++tap) {
        T* __restrict pixel = data + offsets[tap];
        const T weight = weights[tap];
        for (int64_t c = 0; c < channels; ++c) pixel[c] += weight * grad[c];
    }
}

template <class T>
T dot(const T* left, const T* right, int64_t count) {
    // Lanes of fixed number: without -ffast-math the compiler may not split one running sum by itself.
    constexpr int64_t lanes = 32;
    T sums[lanes] = {};
    int64_t c = 0;
    for (; c + lanes <= count; c += lanes)
        for (int64_t lane = 0; lane < lanes; ++lane) sums[lane] += left[c + lane] * right[c + lane];
    for (int64_t lane = 0; c < count; ++c, ++lane) sums[lane] += left[c] * right[c];
    for (int64_t half = lanes / 2; half > 0; half /= 2)
        for (int64_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
    return sums[0];
}

template <class T>
void dots(T* out, const T* data, const int64_t* offsets, int64_t taps, const T* grad, int64_t channels) {
    for (int64_t tap = 0; tap < taps; ++tap) out[tap] = dot(data + offsets[tap], grad, channels);
}

template <class T>
constexpr RoiMeanLoops<T> loops() {
    return {gather<T>, scatter<T>, dots<T>};
}

}  // namespace

const RoiMeanTable& roi_mean_table() {
    static const RoiMeanTable table = {loops<float>(), loops<double>()};
    return table;
}

}  // namespace DCN_ISA
}  // namespace dcn
