#include "deform_conv_depthwise_kernels.h"
#include "vec.h"

#include <type_traits>

namespace dcn::DCN_ISA {
namespace {

#if defined(__clang__) || __GNUC__ >= 12
// Four arrays, `plane` apart, become fours, `step` elements apart.
template <class T>
inline void interleave(const T* from, int64_t plane, T* to, int64_t step, T least, T otherwise) {
    constexpr int n = lanes<T>;
    typedef T Four __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
    Vec<T> a = load(from), b = load(from + plane), c = load(from + 2 * plane), d = load(from + 3 * plane);
    if (std::is_integral_v<T>) {
        for (Vec<T>* v : {&a, &b, &c, &d}) *v = *v < splat(least) ? splat(otherwise) : *v;
    }
    exchange<1, T>(a, b, std::make_integer_sequence<int, n>{});
    exchange<1, T>(c, d, std::make_integer_sequence<int, n>{});
    exchange<2, T>(a, c, std::make_integer_sequence<int, n>{});
    exchange<2, T>(b, d, std::make_integer_sequence<int, n>{});
    const auto put = [&](auto quarter) {
        constexpr int q = decltype(quarter)::value;
        if constexpr (4 * q < n) {
            T* at = to + 4 * q * step;
            const auto part = [](Vec<T> v) {
                return (Four)__builtin_shufflevector(v, v, 4 * q, 4 * q + 1, 4 * q + 2, 4 * q + 3);
            };
            *reinterpret_cast<Four*>(at) = part(a);
            *reinterpret_cast<Four*>(at + step) = part(b);
            *reinterpret_cast<Four*>(at + 2 * step) = part(c);
            *reinterpret_cast<Four*>(at + 3 * step) = part(d);
        }
    };
    put(std::integral_constant<int, 0>{});
    put(std::integral_constant<int, 1>{});
    put(std::integral_constant<int, 2>{});
    put(std::integral_constant<int, 3>{});
}
constexpr bool interleaves = true;
#else
template <class T>
inline void interleave(const T*, int64_t, T*, int64_t, T, T) {}
constexpr bool interleaves = false;
#endif

template <class T, int Corners>
void write_row(const SamplingPlan<T>& plan, int64_t start, int64_t columns, int64_t rows, int32_t nothing,
               Tap<T, Corners>* records) {
    const int64_t plane = plan.taps * plan.room, pixel = rows * plan.taps;
    int64_t done = 0;
    if constexpr (interleaves && Corners == 4 && sizeof(T) == 4) {  // one by one they took a tenth of a convolution
        const int64_t step = pixel * static_cast<int64_t>(sizeof(Tap<T, Corners>) / sizeof(T));
        for (; done + lanes<T> <= columns; done += lanes<T>) {
            for (int64_t t = 0; t < plan.taps; ++t) {
                const int64_t from = t * plan.room + start + done;
                Tap<T, Corners>& tap = records[done * pixel + t];
                interleave(plan.index + from, plane, tap.index, step, int32_t(0), nothing);
                interleave(plan.weight + from, plane, tap.weight, step, T(0), T(0));
            }
        }
    }
    for (int64_t p = done; p < columns; ++p) {
        for (int64_t t = 0; t < plan.taps; ++t) {
            const int64_t from = t * plan.room + start + p;
            Tap<T, Corners>& tap = records[p * pixel + t];
#pragma GCC unroll 8
            for (int j = 0; j < Corners; ++j) {
                const int32_t index = plan.index[j * plane + from];
                tap.index[j] = index < 0 ? nothing : index;
            }
#pragma GCC unroll 8
            for (int j = 0; j < Corners; ++j) tap.weight[j] = plan.weight[j * plane + from];
        }
    }
}

template <class T, int Corners>
void write_records(const SamplingPlan<T>& plan, int64_t rows, int32_t nothing, void* to) {
    const int64_t columns = plan.pixels / rows;
    for (int64_t r = 0; r < rows; ++r) {
        write_row(plan, r * columns, columns, rows, nothing, static_cast<Tap<T, Corners>*>(to) + r * plan.taps);
    }
}

template <class T>
void records(const SamplingPlan<T>& plan, int64_t rows, int32_t nothing, void* to) {
    if (plan.axes == 1) return write_records<T, 2>(plan, rows, nothing, to);
    if (plan.axes == 2) return write_records<T, 4>(plan, rows, nothing, to);
    return write_records<T, 8>(plan, rows, nothing, to);
}

// The weight of every corner in all lanes.
template <class T, int Corners>
inline void spread(const Tap<T, Corners>& tap, Vec<T>* weight) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4 && Corners == 4) {  // one load: the loads are what the loop waits for
        const __m512 four = _mm512_maskz_broadcast_f32x4(0xffff, _mm_loadu_ps(tap.weight));
        weight[0] = (Vec<T>)_mm512_shuffle_ps(four, four, 0x00);
        weight[1] = (Vec<T>)_mm512_shuffle_ps(four, four, 0x55);
        weight[2] = (Vec<T>)_mm512_shuffle_ps(four, four, 0xaa);
        weight[3] = (Vec<T>)_mm512_shuffle_ps(four, four, 0xff);
        return;
    }
#endif
#pragma GCC unroll 8
    for (int j = 0; j < Corners; ++j) weight[j] = splat(tap.weight[j]);
}

template <class T, int Corners>
inline void locate(const Tap<T, Corners>& tap, const T* source, int64_t pitch, const T** at) {
#pragma GCC unroll 8
    for (int j = 0; j < Corners; ++j) at[j] = source + tap.index[j] * pitch;
}

template <class T>
struct Sums {
    const void* records;
    int64_t taps, rows, columns;
    const T* source;
    int64_t pitch;
    const T* weight;
    int64_t weight_tap;
    T* to;
    int64_t to_row, to_pixel;

    template <class F>
    void for_each_pixel(F&& body) const {
        for (int64_t column = 0; column < columns; ++column) {
            for (int64_t row = 0; row < rows; ++row) body(to + row * to_row + column * to_pixel);
        }
    }
};

// `Vectors` vectors of channels from `c` on. Taps: their number, whose weights are then held in registers, or 0.
template <class T, int Corners, int Vectors, int Taps>
void sum_vectors(const Sums<T>& call, int64_t c) {
    constexpr int n = lanes<T>;
    const auto* tap = static_cast<const Tap<T, Corners>*>(call.records);
    const T *source = call.source + c, *weight = call.weight + c;
    Vec<T> held[Taps ? Taps : 1][Vectors];
    if constexpr (Taps > 0) {
#pragma GCC unroll 16
        for (int t = 0; t < Taps; ++t) {
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v) held[t][v] = load(weight + t * call.weight_tap + v * n);
        }
    }
    const auto add = [&](const Tap<T, Corners>& sample, const auto& scale, Vec<T>* sum) {
        const T* at[Corners];
        Vec<T> share[Corners];
        locate<T, Corners>(sample, source, call.pitch, at);
        spread<T, Corners>(sample, share);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
            Vec<T> value = share[0] * load(at[0] + v * n);
#pragma GCC unroll 8
            for (int j = 1; j < Corners; ++j) value += share[j] * load(at[j] + v * n);
            sum[v] += scale(v) * value;
        }
    };
    call.for_each_pixel([&](T* to) {
        Vec<T> sum[Vectors] = {};
        if constexpr (Taps > 0) {
#pragma GCC unroll 16
            for (int t = 0; t < Taps; ++t) add(tap[t], [&](int v) { return held[t][v]; }, sum);
            tap += Taps;
        } else {
            const T* scale = weight;
            for (int64_t t = 0; t < call.taps; ++t, ++tap, scale += call.weight_tap) {
                add(*tap, [&](int v) { return load(scale + v * n); }, sum);
            }
        }
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) store(to + c + v * n, sum[v]);
    });
}

template <class T, int Corners>
void sum_rest(const Sums<T>& call, int64_t c, int64_t channels) {
    const auto* tap = static_cast<const Tap<T, Corners>*>(call.records);
    call.for_each_pixel([&](T* to) {
        for (int64_t i = c; i < channels; ++i) to[i] = T(0);
        for (int64_t t = 0; t < call.taps; ++t) {
            const T* at[Corners];
            locate<T, Corners>(tap[t], call.source, call.pitch, at);
            for (int64_t i = c; i < channels; ++i) {
                T value = tap[t].weight[0] * at[0][i];
                for (int j = 1; j < Corners; ++j) value += tap[t].weight[j] * at[j][i];
                to[i] += call.weight[t * call.weight_tap + i] * value;
            }
        }
        tap += call.taps;
    });
}

template <class T, int Corners>
void sum_channels(const Sums<T>& call, int64_t channels) {
    constexpr int n = lanes<T>;
    // With 32 registers the weights of 3x3 taps stay in 18 of them.
    constexpr bool hold = vector_registers == 32 && Corners == 4;
    constexpr int vectors = hold && n * sizeof(T) == 64 && sizeof(T) == 4 ? 2 : 4;
    int64_t c = 0;
    for (; hold && vectors == 2 && call.taps == 9 && c + 2 * n <= channels; c += 2 * n) {
        sum_vectors<T, Corners, 2, hold ? 9 : 0>(call, c);
    }
    for (; c + vectors * n <= channels; c += vectors * n) sum_vectors<T, Corners, vectors, 0>(call, c);
    for (; c + n <= channels; c += n) sum_vectors<T, Corners, 1, 0>(call, c);
    if (c < channels) sum_rest<T, Corners>(call, c, channels);
}

template <class T>
void sum(const SamplingPlan<T>& plan, int64_t rows, const void* records, const T* source, int64_t pitch,
         int64_t channels, const T* weight, int64_t weight_tap, T* to, int64_t to_row, int64_t to_pixel) {
    const Sums<T> call{records, plan.taps, rows, plan.pixels / rows, source, pitch, weight, weight_tap, to, to_row, to_pixel};
    if (plan.axes == 1) return sum_channels<T, 2>(call, channels);
    if (plan.axes == 2) return sum_channels<T, 4>(call, channels);
    return sum_channels<T, 8>(call, channels);
}

template <class T>
constexpr DepthwiseKernels<T> table{records<T>, sum<T>};

}  // namespace

const DepthwiseKernels<float>& depthwise_float() { return table<float>; }
const DepthwiseKernels<double>& depthwise_double() { return table<double>; }

}  // namespace dcn::DCN_ISA
