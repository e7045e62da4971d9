#include "roi_mean.h"

namespace dcn {
namespace DCN_ISA {
namespace {

// Channels kept in registers while all taps of a bin pass: four vectors of AVX-512, eight of AVX2.
constexpr int64_t kBlock = 64;

template <class T>
void gather_block(T* out, const T* data, const int64_t* offsets, const T* weights, int64_t taps) {
    T sum[kBlock] = {};
    for (int64_t tap = 0; tap < taps; ++tap) {
        const T* pixel = data + offsets[tap];
        const T weight = weights[tap];
        for (int64_t c = 0; c < kBlock; ++c) sum[c] += weight * pixel[c];
    }
    for (int64_t c = 0; c < kBlock; ++c) out[c] = sum[c];
}

template <class T>
void gather(T* out, const T* data, const int64_t* offsets, const T* weights, int64_t taps, int64_t channels) {
    int64_t begin = 0;
    for (; begin + kBlock <= channels; begin += kBlock) gather_block(out + begin, data + begin, offsets, weights, taps);
    for (int64_t c = begin; c < channels; ++c) out[c] = 0;
    for (int64_t tap = 0; tap < taps; ++tap) {
        const T* pixel = data + offsets[tap];
        for (int64_t c = begin; c < channels; ++c) out[c] += weights[tap] * pixel[c];
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
void transpose(T* __restrict out, int64_t out_stride, const T* __restrict in, int64_t in_stride, int64_t rows,
               int64_t columns) {
    constexpr int64_t tile = 16;  // a cache line of float
    for (int64_t row = 0; row < rows; row += tile) {
        const int64_t row_end = row + tile < rows ? row + tile : rows;
        for (int64_t column = 0; column < columns; ++column)
            for (int64_t r = row; r < row_end; ++r) out[column * out_stride + r] = in[r * in_stride + column];
    }
}

template <class T>
constexpr RoiMeanLoops<T> loops() {
    return {gather<T>, scatter<T>, dots<T>, transpose<T>};
}

}  // namespace

const RoiMeanTable& roi_mean_table() {
    static const RoiMeanTable table = {loops<float>(), loops<double>()};
    return table;
}

}  // namespace DCN_ISA
}  // namespace dcn
