// Sampling, and the gradients of samples: the inner loops of deformable convolution.
#include "deform_conv_kernels.h"
#include "deform_conv_plan.h"
#include "vec.h"

namespace dcn::DCN_ISA {
namespace {

// The corners of one sample: where they are and what they weigh.
template <class T, int Corners>
struct Sample {
    const T* at[Corners];
    T weight[Corners];

    Sample() = default;
    Sample(const SamplingPlan<T>& plan, int64_t location, const T* source, int64_t pitch, const T* zeros) {
        const int64_t plane = plan.taps * plan.room;
#pragma GCC unroll 8
        for (int j = 0; j < Corners; ++j) {
            const int64_t index = plan.index[j * plane + location];
            at[j] = index < 0 ? zeros : source + index * pitch;
            weight[j] = plan.weight[j * plane + location];
        }
    }

    Vec<T> vector(int64_t c) const {
        Vec<T> value = splat(weight[0]) * load(at[0] + c);
#pragma GCC unroll 8
        for (int j = 1; j < Corners; ++j) value += splat(weight[j]) * load(at[j] + c);
        return value;
    }

    // The first `count` channels from `c` on; nothing beyond is read.
    Vec<T> part(int64_t c, int count) const {
        Vec<T> value = splat(weight[0]) * load_part(at[0] + c, count);
#pragma GCC unroll 8
        for (int j = 1; j < Corners; ++j) value += splat(weight[j]) * load_part(at[j] + c, count);
        return value;
    }

    T scalar(int64_t c) const {
        T value = weight[0] * at[0][c];
        for (int j = 1; j < Corners; ++j) value += weight[j] * at[j][c];
        return value;
    }
};

template <class T, int Corners>
void sample_corners(const SamplingPlan<T>& plan, const T* source, int64_t pitch, int64_t channels, const T* zeros,
                    T* to, int64_t to_row, int64_t to_tap) {
    constexpr int n = lanes<T>;
    for (int64_t p = 0; p < plan.pixels; ++p) {
        for (int64_t t = 0; t < plan.taps; ++t) {
            const Sample<T, Corners> sample(plan, t * plan.room + p, source, pitch, zeros);
            T* row = to + p * to_row + t * to_tap;
            int64_t c = 0;
            for (; c + n <= channels; c += n) store(row + c, sample.vector(c));
            if constexpr (masked_memory) {
                const int rest = static_cast<int>(channels - c);
                if (rest) store_part(row + c, sample.part(c, rest), rest);
            } else {
                for (; c < channels; ++c) row[c] = sample.scalar(c);
            }
        }
    }
}

template <class T>
void sample(const SamplingPlan<T>& plan, const T* source, int64_t pitch, int64_t channels, const T* zeros, T* to,
            int64_t to_row, int64_t to_tap) {
    if (plan.axes == 1) return sample_corners<T, 2>(plan, source, pitch, channels, zeros, to, to_row, to_tap);
    if (plan.axes == 2) return sample_corners<T, 4>(plan, source, pitch, channels, zeros, to, to_row, to_tap);
    return sample_corners<T, 8>(plan, source, pitch, channels, zeros, to, to_row, to_tap);
}

#if defined(__AVX512BF16__)
// The corners of a sample as above, of channels in bfloat16: half the cache lines, which were most of the time.
template <int Corners>
struct BFloatSample {
    const uint16_t* at[Corners];
    __m512 weight[Corners];

    BFloatSample(const SamplingPlan<float>& plan, int64_t location, const uint16_t* source, int64_t pitch,
                 const uint16_t* zeros) {
        const int64_t plane = plan.taps * plan.room;
#pragma GCC unroll 8
        for (int j = 0; j < Corners; ++j) {
            const int64_t index = plan.index[j * plane + location];
            at[j] = index < 0 ? zeros : source + index * pitch;
            weight[j] = _mm512_set1_ps(plan.weight[j * plane + location]);
        }
    }

    // 32 channels; `bits(from)` reads them. The even ones are summed apart from the odd ones.
    template <class F>
    __m512i vector(F&& bits) const {
        __m512 even{}, odd{};
#pragma GCC unroll 8
        for (int j = 0; j < Corners; ++j) {
            const auto both = (Vec<uint32_t>)bits(at[j]);
            const auto first = (__m512)(both << 16), second = (__m512)(both & 0xffff0000u);
            even = j ? _mm512_fmadd_ps(weight[j], first, even) : _mm512_mul_ps(weight[j], first);
            odd = j ? _mm512_fmadd_ps(weight[j], second, odd) : _mm512_mul_ps(weight[j], second);
        }
        return (__m512i)_mm512_cvtne2ps_pbh(odd, even);
    }
};

template <int Corners>
void sample_pairs_corners(const SamplingPlan<float>& plan, const uint16_t* source, int64_t pitch, int64_t channels,
                          const uint16_t* zeros, uint16_t* to, int64_t to_row, int64_t to_tap) {
    constexpr int n = 2 * lanes<float>;
    uint16_t order[n];  // even and odd channels by turns
    for (int i = 0; i < n; ++i) order[i] = static_cast<uint16_t>(i / 2 + i % 2 * n / 2);
    const __m512i turns = _mm512_loadu_si512(order);
    const int64_t whole = channels / n * n;
    const auto rest = static_cast<__mmask32>((uint64_t{1} << (channels - whole)) - 1);
    for (int64_t p = 0; p < plan.pixels; ++p) {
        for (int64_t t = 0; t < plan.taps; ++t) {
            const BFloatSample<Corners> sample(plan, t * plan.room + p, source, pitch, zeros);
            uint16_t* row = to + p * to_row + t * to_tap;
            for (int64_t c = 0; c < whole; c += n) {
                const __m512i sums = sample.vector([&](const uint16_t* from) { return _mm512_loadu_si512(from + c); });
                _mm512_storeu_si512(row + c, _mm512_permutexvar_epi16(turns, sums));
            }
            if (rest) {
                const __m512i sums = sample.vector(
                    [&](const uint16_t* from) { return _mm512_maskz_loadu_epi16(rest, from + whole); });
                _mm512_mask_storeu_epi16(row + whole, rest, _mm512_permutexvar_epi16(turns, sums));
            }
        }
    }
}

void sample_pairs(const SamplingPlan<float>& plan, const uint16_t* source, int64_t pitch, int64_t channels,
                  const uint16_t* zeros, uint16_t* to, int64_t to_row, int64_t to_tap) {
    if (plan.axes == 1) return sample_pairs_corners<2>(plan, source, pitch, channels, zeros, to, to_row, to_tap);
    if (plan.axes == 2) return sample_pairs_corners<4>(plan, source, pitch, channels, zeros, to, to_row, to_tap);
    return sample_pairs_corners<8>(plan, source, pitch, channels, zeros, to, to_row, to_tap);
}
#endif

template <class T>
constexpr auto pairs_sampler() -> decltype(DeformConvKernels<T>::sample_pairs) {
#if defined(__AVX512BF16__)
    if constexpr (sizeof(T) == 4) return sample_pairs;
#endif
    return nullptr;
}

#if defined(__clang__) || __GNUC__ >= 12
template <int First, class T>
inline auto quarter(Vec<T> v) {
    return __builtin_shufflevector(v, v, First, First + 1, First + 2, First + 3);
}
#endif

// to[j] += sum of the lanes of sum[j].
template <class T, int Corners>
inline void add_lanes(const Vec<T>* sum, T* to) {
#if defined(__clang__) || __GNUC__ >= 12
    constexpr int n = lanes<T>;
    if constexpr (Corners == 4 && n >= 4) {  // 8 shuffles for 4 sums instead of 16
        Vec<T> a = sum[0], b = sum[1], c = sum[2], d = sum[3];
        exchange<1, T>(a, b, std::make_integer_sequence<int, n>{});
        exchange<1, T>(c, d, std::make_integer_sequence<int, n>{});
        a += b;
        c += d;
        exchange<2, T>(a, c, std::make_integer_sequence<int, n>{});
        a += c;  // lane i holds a part of sum i % 4
        typedef T Four __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
        Four total = quarter<0, T>(a);
        if constexpr (n >= 8) total += quarter<4, T>(a);
        if constexpr (n >= 16) total += quarter<8, T>(a) + quarter<12, T>(a);
        *reinterpret_cast<Four*>(to) += total;
        return;
    }
#endif
    for (int j = 0; j < Corners; ++j) {
        T total = sum[j][0];
        for (int i = 1; i < lanes<T>; ++i) total += sum[j][i];
        to[j] += total;
    }
}

template <class T, int Corners, bool Scatter, bool Columns, bool Dots>
void backward_run(const SamplingPlan<T>& plan, const BackwardRun<T>& run) {
    constexpr int n = lanes<T>;
    const int64_t plane = plan.taps * plan.room;
    for (int64_t t = 0; t < plan.taps; ++t) {
        for (int64_t p = 0; p < plan.pixels; ++p) {
            const int64_t location = t * plan.room + p;
            const T mask = plan.mask ? plan.mask[location] : T(1);
            const Sample<T, Corners> sample(plan, location, run.source, run.pitch, run.zeros);
            T* gradient[Corners];
            if (Scatter) {
                for (int j = 0; j < Corners; ++j) {
                    const int64_t index = plan.index[j * plane + location];
                    gradient[j] = index < 0 ? run.waste : run.gradient + index * run.pitch;
                }
            }
            const int64_t column = p * run.column_row + t * run.column_tap;
            const T* above = run.column_gradient + column;
            Vec<T> sum[Corners] = {};
            int64_t c = 0;
            for (; c + n <= run.channels; c += n) {
                const Vec<T> g = load(above + c);
                if (Columns) store(run.columns + column + c, splat(mask) * sample.vector(c));
                for (int j = 0; j < Corners; ++j) {
                    if (Dots) sum[j] += g * load(sample.at[j] + c);
                    if (Scatter) store(gradient[j] + c, load(gradient[j] + c) + splat(mask * sample.weight[j]) * g);
                }
            }
            if (Dots && c) add_lanes<T, Corners>(sum, run.dots + location * Corners);
            for (; c < run.channels; ++c) {
                if (Columns) run.columns[column + c] = mask * sample.scalar(c);
                for (int j = 0; j < Corners; ++j) {
                    if (Dots) run.dots[location * Corners + j] += above[c] * sample.at[j][c];
                    if (Scatter) gradient[j][c] += mask * sample.weight[j] * above[c];
                }
            }
        }
    }
}

template <class T, int Corners>
void backward_parts(const SamplingPlan<T>& plan, const BackwardRun<T>& run) {
    const bool scatter = run.gradient, columns = run.columns, dots = run.dots;
    if (scatter && columns && dots) return backward_run<T, Corners, true, true, true>(plan, run);
    if (scatter && columns) return backward_run<T, Corners, true, true, false>(plan, run);
    if (scatter && dots) return backward_run<T, Corners, true, false, true>(plan, run);
    if (columns && dots) return backward_run<T, Corners, false, true, true>(plan, run);
    if (scatter) return backward_run<T, Corners, true, false, false>(plan, run);
    if (columns) return backward_run<T, Corners, false, true, false>(plan, run);
    if (dots) return backward_run<T, Corners, false, false, true>(plan, run);
}

template <class T>
void backward(const SamplingPlan<T>& plan, const BackwardRun<T>& run) {
    if (plan.axes == 1) return backward_parts<T, 2>(plan, run);
    if (plan.axes == 2) return backward_parts<T, 4>(plan, run);
    return backward_parts<T, 8>(plan, run);
}

// One or two corners of an entry of a list (corner_lists.h).
template <class T>
struct ListedCorners {
    int64_t tap, pixel;
    int count;
    int64_t index[2];
    T weight[2];

    ListedCorners(const SamplingPlan<T>& plan, int32_t entry) : tap(entry >> 10), pixel(entry >> 3 & 127) {
        const int64_t plane = plan.taps * plan.room, location = tap * plan.room + pixel;
        const int code = entry & 7;
        const bool pair = plan.axes == 2 && code >= 4;
        const T mask = plan.mask ? plan.mask[location] : T(1);
        const int64_t at = (pair ? 2 * (code - 4) : code) * plane + location;
        count = pair ? 2 : 1;
        index[0] = plan.index[at];
        weight[0] = mask * plan.weight[at];
        index[1] = pair ? plan.index[at + plane] : -1;
        weight[1] = pair ? mask * plan.weight[at + plane] : T(0);
    }
};

template <class T>
void scatter(const SamplingPlan<T>& plan, const int32_t* corners, int64_t count, const BackwardRun<T>& run) {
    constexpr int n = lanes<T>;
    for (int64_t i = 0; i < count; ++i) {
        const ListedCorners<T> listed(plan, corners[i]);
        const T* above = run.column_gradient + listed.pixel * run.column_row + listed.tap * run.column_tap;
        for (int k = 0; k < listed.count; ++k) {
            const T weight = listed.weight[k];
            T* to = run.gradient + listed.index[k] * run.pitch;
            int64_t c = 0;
            for (; c + n <= run.channels; c += n) store(to + c, load(to + c) + splat(weight) * load(above + c));
            for (; c < run.channels; ++c) to[c] += weight * above[c];
        }
    }
}

template <class T, int Axes>
void finish_axes(const SamplingPlan<T>& plan, const T* dots, T* values) {
    constexpr int corners = 1 << Axes;
    const int64_t plane = plan.taps * plan.room;
    for (int64_t t = 0; t < plan.taps; ++t) {
        for (int64_t p = 0; p < plan.pixels; ++p) {
            const int64_t location = t * plan.room + p;
            T sums[Axes + 1] = {};
            bool inside = false;
            for (int j = 0; j < corners; ++j) {
                const T dot = dots[location * corners + j];
                inside = inside || plan.index[j * plane + location] >= 0;
                sums[Axes] += plan.weight[j * plane + location] * dot;
                for (int axis = 0; axis < Axes; ++axis) {
                    T slope = (j >> (Axes - 1 - axis)) & 1 ? dot : -dot;
                    for (int other = 0; other < Axes; ++other) {
                        const T f = plan.fraction[other * plane + location];
                        if (other != axis) slope *= (j >> (Axes - 1 - other)) & 1 ? f : T(1) - f;
                    }
                    sums[axis] += slope;
                }
            }
            const T mask = plan.mask ? plan.mask[location] : T(1);
            for (int axis = 0; axis < Axes; ++axis) values[axis * plane + location] = inside ? sums[axis] * mask : T(0);
            values[Axes * plane + location] = inside ? sums[Axes] : T(0);
        }
    }
}

template <class T>
void finish(const SamplingPlan<T>& plan, const T* dots, T* values) {
    if (plan.axes == 1) return finish_axes<T, 1>(plan, dots, values);
    if (plan.axes == 2) return finish_axes<T, 2>(plan, dots, values);
    return finish_axes<T, 3>(plan, dots, values);
}

// Vectors of the channels of a depthwise convolution. `Whole`: as many as a block has, all of them whole.
template <class T, bool Whole>
struct ChannelVectors {
    static constexpr int n = lanes<T>, most = 16 / n < 1 ? 1 : 16 / n;
    const int64_t channels;

    explicit ChannelVectors(int64_t channels) : channels(channels) {}
    static bool fit(int64_t channels) { return channels == most * n; }
    int count() const { return Whole ? most : static_cast<int>((channels + n - 1) / n); }
    int part(int v) const { return static_cast<int>(channels - v * n); }
    bool is_whole(int v) const { return Whole || part(v) >= n; }
    Vec<T> read(const T* from, int v) const {
        return is_whole(v) ? load(from + v * n) : load_part(from + v * n, part(v));
    }
    void write(T* to, int v, Vec<T> value) const {
        if (is_whole(v)) return store(to + v * n, value);
        store_part(to + v * n, value, part(v));
    }
};

// Which gradients are wanted: known to the compiler, or by the pointers that are not null.
constexpr int by_pointers = 0, input_part = 1, weight_part = 2, location_part = 4;

template <class T, int Corners, bool Whole, int Parts>
void depthwise_run(const SamplingPlan<T>& plan, const DepthwiseRun<T>& run) {
    constexpr int most = 16;  // vectors of a block: of two doubles each
    const ChannelVectors<T, Whole> vectors(run.channels);
    constexpr bool known = Parts != by_pointers;
    const bool scatter = known ? (Parts & input_part) != 0 : run.gradient != nullptr;
    const bool weights = known ? (Parts & weight_part) != 0 : run.sums != nullptr;
    const bool dots = known ? (Parts & location_part) != 0 : run.dots != nullptr;
    const int64_t plane = plan.taps * plan.room;
    for (int64_t t = 0; t < plan.taps; ++t) {
        const T* scale = run.weight + t * run.weight_tap;
        for (int64_t first = 0; first < plan.pixels; first += run.part) {
            const int64_t end = first + run.part < plan.pixels ? first + run.part : plan.pixels;
            Vec<T> total[Whole ? ChannelVectors<T, true>::most : most] = {};
            for (int64_t p = first; p < end; ++p) {
                const int64_t location = t * plan.room + p;
                const T mask = plan.mask ? plan.mask[location] : T(1);
                const Sample<T, Corners> sample(plan, location, run.source, run.pitch, run.zeros);
                T* gradient[Corners];
                for (int j = 0; scatter && j < Corners; ++j) {
                    const int64_t index = plan.index[j * plane + location];
                    gradient[j] = index < 0 ? run.waste : run.gradient + index * run.pitch;
                }
                const T* above = run.above + p * run.above_row;
                Vec<T> sum[Corners] = {};
                for (int v = 0; v < vectors.count(); ++v) {
                    const Vec<T> outer = vectors.read(above, v), g = outer * vectors.read(scale, v);
                    Vec<T> value{};
#pragma GCC unroll 8
                    for (int j = 0; j < Corners; ++j) {
                        if (weights || dots) {
                            const Vec<T> corner = vectors.read(sample.at[j], v);
                            value += splat(sample.weight[j]) * corner;
                            sum[j] += g * corner;
                        }
                        if (!scatter) continue;
                        vectors.write(gradient[j], v, vectors.read(gradient[j], v) + splat(mask * sample.weight[j]) * g);
                    }
                    total[v] += outer * (splat(mask) * value);
                }
                if (dots) add_lanes<T, Corners>(sum, run.dots + location * Corners);
            }
            if (!weights) continue;
            T* sums = run.sums + t * run.weight_tap + first / run.part * run.part_step;
            for (int v = 0; v < vectors.count(); ++v) vectors.write(sums, v, vectors.read(sums, v) + total[v]);
        }
    }
}

template <class T, int Corners>
void depthwise_parts(const SamplingPlan<T>& plan, const DepthwiseRun<T>& run) {
    constexpr int rest = weight_part | location_part;
    if (!ChannelVectors<T, true>::fit(run.channels)) return depthwise_run<T, Corners, false, by_pointers>(plan, run);
    if (run.gradient && run.sums && run.dots) return depthwise_run<T, Corners, true, input_part | rest>(plan, run);
    if (run.gradient && !run.sums && !run.dots) return depthwise_run<T, Corners, true, input_part>(plan, run);
    if (!run.gradient && run.sums && run.dots) return depthwise_run<T, Corners, true, rest>(plan, run);
    depthwise_run<T, Corners, true, by_pointers>(plan, run);
}

template <class T>
void depthwise(const SamplingPlan<T>& plan, const DepthwiseRun<T>& run) {
    if (plan.axes == 1) return depthwise_parts<T, 2>(plan, run);
    if (plan.axes == 2) return depthwise_parts<T, 4>(plan, run);
    return depthwise_parts<T, 8>(plan, run);
}

template <class T, bool Whole>
void depthwise_corners(const SamplingPlan<T>& plan, const int32_t* corners, int64_t count, const DepthwiseRun<T>& run) {
    const ChannelVectors<T, Whole> vectors(run.channels);
    for (int64_t i = 0; i < count; ++i) {
        const ListedCorners<T> listed(plan, corners[i]);
        const T *above = run.above + listed.pixel * run.above_row, *scale = run.weight + listed.tap * run.weight_tap;
        T* const first = run.gradient + listed.index[0] * run.pitch;
        T* const second = run.gradient + listed.index[1] * run.pitch;
        for (int v = 0; v < vectors.count(); ++v) {
            const Vec<T> g = vectors.read(above, v) * vectors.read(scale, v);
            vectors.write(first, v, vectors.read(first, v) + splat(listed.weight[0]) * g);
            if (listed.count < 2) continue;
            vectors.write(second, v, vectors.read(second, v) + splat(listed.weight[1]) * g);
        }
    }
}

template <class T>
void depthwise_scatter(const SamplingPlan<T>& plan, const int32_t* corners, int64_t count, const DepthwiseRun<T>& run) {
    if (ChannelVectors<T, true>::fit(run.channels)) return depthwise_corners<T, true>(plan, corners, count, run);
    depthwise_corners<T, false>(plan, corners, count, run);
}

template <class T>
constexpr DeformConvKernels<T> table{
    lanes<T>,    planning::read<T>, planning::write<T>, planning::row_range<T>, planning::plan<T>,      sample<T>,
    pairs_sampler<T>(), backward<T>, scatter<T>, finish<T>, depthwise<T>, depthwise_scatter<T>};

}  // namespace

const DeformConvKernels<float>& deform_conv_float() { return table<float>; }
const DeformConvKernels<double>& deform_conv_double() { return table<double>; }

}  // namespace dcn::DCN_ISA
