#include "deform_conv_kernels.h"
#include <type_traits>

#include "vec_wide.h"

namespace dcn::DCN_ISA {
namespace {

constexpr int32_t outside = -(1 << 29);  // three of them still fit into 32 bits

template <class S, class T>
void read_as(const S* from, int64_t step, int64_t count, T* to) {
    if (step == 1) {
        int64_t i = 0;
        if constexpr (std::is_same_v<Wide<S>, T>) {  // rows of a tile are short: plain loops took 5 cycles an element
            constexpr int n = lanes<T>;
            for (; i + n <= count; i += n) store(to + i, load_wide(from + i));
            const int rest = static_cast<int>(count - i);
            if (masked_memory && rest) return store_part(to + i, load_wide_part(from + i, rest), rest);
        }
        for (; i < count; ++i) to[i] = static_cast<T>(widen(from[i]));
    } else {
        for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(widen(from[i * step]));
    }
}

template <class T>
void read(const void* from, int32_t dtype, int64_t step, int64_t count, T* to) {
    for_type(dtype, [&](auto type) { read_as(static_cast<const decltype(type)*>(from), step, count, to); });
}

inline void put(double value, float& to) { to = static_cast<float>(value); }
inline void put(float value, double& to) { to = value; }
inline void put(double value, Half& to) { narrow(static_cast<float>(value), to); }
inline void put(double value, BFloat& to) { narrow(static_cast<float>(value), to); }
inline void put(float value, float& to) { to = value; }
inline void put(double value, double& to) { to = value; }
inline void put(float value, Half& to) { narrow(value, to); }
inline void put(float value, BFloat& to) { narrow(value, to); }

template <class S, class T>
void write_as(const T* from, int64_t count, S* to, int64_t step, bool accumulate) {
    if (accumulate) {
        for (int64_t i = 0; i < count; ++i) put(static_cast<T>(from[i] + widen(to[i * step])), to[i * step]);
    } else if (step == 1) {
        for (int64_t i = 0; i < count; ++i) put(from[i], to[i]);
    } else {
        for (int64_t i = 0; i < count; ++i) put(from[i], to[i * step]);
    }
}

template <class T>
void write(const T* from, int64_t count, void* to, int32_t dtype, int64_t step, bool accumulate) {
    for_type(dtype, [&](auto type) { write_as(from, count, static_cast<decltype(type)*>(to), step, accumulate); });
}

template <class T>
void row_range(const T* offset, int64_t count, T location, int64_t size, bool v1, int64_t* low, int64_t* high) {
    const T first = v1 ? T(0) : T(-1), last = static_cast<T>(size);
    T lowest = last, highest = first;
    constexpr int n = lanes<T>;
    int64_t i = 0;
    if (count >= n) {  // written plainly, GCC left this loop scalar
        Vec<T> low_lanes = splat(last), high_lanes = splat(first);
        for (; i + n <= count; i += n) {
            const Vec<T> y = splat(location) + load(offset + i);
            const auto inside = (v1 ? y >= splat(first) : y > splat(first)) & (y < splat(last));
            low_lanes = inside & (y < low_lanes) ? y : low_lanes;
            high_lanes = inside & (y > high_lanes) ? y : high_lanes;
        }
        for (int lane = 0; lane < n; ++lane) {
            lowest = low_lanes[lane] < lowest ? low_lanes[lane] : lowest;
            highest = high_lanes[lane] > highest ? high_lanes[lane] : highest;
        }
    }
    for (; i < count; ++i) {
        const T y = location + offset[i];
        const bool inside = v1 ? y >= first && y < last : y > first && y < last;  // false for NaN
        lowest = inside && y < lowest ? y : lowest;
        highest = inside && y > highest ? y : highest;
    }
    if (!(lowest < last)) return;
    const int64_t from = lowest < 0 ? 0 : static_cast<int64_t>(lowest);
    const int64_t to = highest < 0 ? 1 : static_cast<int64_t>(highest) + 2;
    *low = from < *low ? from : *low;
    *high = to > *high ? (to > size ? size : to) : *high;
}

inline void store_locations(int32_t* to, Vec<int32_t> locations) { store(to, locations); }
inline void store_locations(int32_t* to, Vec<int64_t> locations) {
    for (int i = 0; i < lanes<int64_t>; ++i) to[i] = static_cast<int32_t>(locations[i]);
}

#if defined(__AVX512F__)
// `plan_axis` below with masks: GCC 12 takes the lanes of its comparisons apart, which was 16 % of a depthwise
// convolution.
template <bool V1>
void plan_axis_masked(const PlanRequest<float>& request, int axis, const float* offset, float shift, int64_t pixels,
                      int32_t* lower, int32_t* upper, float* fraction) {
    const __m512 first = _mm512_set1_ps(V1 ? 0.0f : -1.0f);
    const __m512 size = _mm512_set1_ps(static_cast<float>(request.size[axis])), moved = _mm512_set1_ps(shift);
    const __m512i last = _mm512_set1_epi32(static_cast<int32_t>(request.size[axis] - 1));
    const __m512i step = _mm512_set1_epi32(static_cast<int32_t>(request.step[axis]));
    const __m512i none = _mm512_set1_epi32(outside), one = _mm512_set1_epi32(1);
    const __m512i start = _mm512_set1_epi32(request.slots.start), turn = _mm512_set1_epi32(request.slots.turn);
    const __m512i turned = _mm512_set1_epi32(request.slots.start - request.slots.ring);
    const auto at = [&](__mmask16 inside, __m512i line) {
        const __m512i index = _mm512_mullo_epi32(line, step);
        if (axis != 0) return _mm512_mask_mov_epi32(none, inside, index);
        const __m512i base = _mm512_mask_blend_epi32(_mm512_cmpge_epi32_mask(line, turn), start, turned);
        return _mm512_mask_add_epi32(none, inside, index, base);
    };
    for (int64_t p = 0; p < pixels; p += 16) {
        const __m512 y = _mm512_add_ps(_mm512_add_ps(_mm512_loadu_ps(request.location[axis] + p), moved),
                                       _mm512_loadu_ps(offset + p));
        const __mmask16 inside = _mm512_cmp_ps_mask(y, first, V1 ? _CMP_GE_OQ : _CMP_GT_OQ) &
                                 _mm512_cmp_ps_mask(y, size, _CMP_LT_OQ);
        const __m512 floor = _mm512_maskz_roundscale_ps(inside, y, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
        const __m512i y0 = _mm512_maskz_cvttps_epi32(inside, floor);
        __m512i y1 = _mm512_add_epi32(y0, one);
        __mmask16 kept = inside;
        if (V1) {  // no attenuation between size - 1 and size
            const __mmask16 clamped = _mm512_cmpge_epi32_mask(y0, last);
            kept = inside & ~clamped;
            y1 = _mm512_mask_mov_epi32(y1, clamped, y0);
        }
        _mm512_storeu_ps(fraction + p, _mm512_maskz_sub_ps(kept, y, floor));
        // Compared as unsigned numbers: above the first line, -1, is outside too.
        _mm512_storeu_si512(lower + p, at(inside & _mm512_cmple_epu32_mask(y0, last), y0));
        _mm512_storeu_si512(upper + p, at(inside & _mm512_cmple_epu32_mask(y1, last), y1));
    }
}
#endif

// One axis of one tap: location of the lower and the upper neighbour (or `outside`) and the position between them. Whole
// vectors, without a branch: written plainly, GCC left this loop scalar and it took 20 % of a 64-channel convolution.
template <class T, bool V1>
void plan_axis(const PlanRequest<T>& request, int axis, const T* offset, T shift, int64_t pixels, int32_t* lower,
               int32_t* upper, T* fraction) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {
        return plan_axis_masked<V1>(request, axis, offset, shift, pixels, lower, upper, fraction);
    }
#endif
    using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    using Ints = Vec<Int>;
    const T* location = request.location[axis];
    const Vec<T> first = splat<T>(V1 ? 0 : -1), size = splat(static_cast<T>(request.size[axis]));
    const Ints last = splat<Int>(static_cast<Int>(request.size[axis] - 1));
    const Ints step = splat<Int>(static_cast<Int>(request.step[axis]));
    const Ints none = splat<Int>(outside), zero{};
    const Ints start = splat<Int>(request.slots.start), turn = splat<Int>(request.slots.turn);
    const Ints ring = splat<Int>(request.slots.ring);
    for (int64_t p = 0; p < pixels; p += lanes<T>) {
        const Vec<T> y = load(location + p) + splat(shift) + load(offset + p);
        const Ints inside = (V1 ? y >= first : y > first) & (y < size);  // compared as numbers: false for NaN
        const Vec<T> safe = inside ? y : Vec<T>{};
        Ints y0 = __builtin_convertvector(safe, Ints);
        y0 += __builtin_convertvector(y0, Vec<T>) > safe;  // floor: true is -1
        Vec<T> between = safe - __builtin_convertvector(y0, Vec<T>);
        Ints y1 = y0 + 1;
        if (V1) {  // no attenuation between size - 1 and size
            const Ints clamped = y0 >= last;
            between = clamped ? Vec<T>{} : between;
            y1 = clamped ? y0 : y1;
        }
        store(fraction + p, between);
        const auto at = [&](Ints line) {
            const Ints index = line * step;
            return axis == 0 ? index + start - (line >= turn ? ring : zero) : index;
        };
        store_locations(lower + p, inside & (y0 >= zero) & (y0 <= last) ? at(y0) : none);
        store_locations(upper + p, inside & (y1 >= zero) & (y1 <= last) ? at(y1) : none);
    }
}

constexpr int64_t max_pixels = 128;

template <class T, int Axes, bool V1>
void plan_taps(const PlanRequest<T>& request, const SamplingPlan<T>& plan) {
    constexpr int corners = 1 << Axes;
    const int64_t plane = plan.taps * plan.room;
    for (int64_t t = 0; t < plan.taps; ++t) {
        int32_t side[Axes][2][max_pixels];
        T fraction[Axes][max_pixels];
        for (int axis = 0; axis < Axes; ++axis) {
            const T* offset = request.offset + (t * Axes + axis) * plan.room;
            plan_axis<T, V1>(request, axis, offset, request.tap_shift[axis][t], plan.pixels, side[axis][0],
                             side[axis][1], fraction[axis]);
            if (plan.fraction) {
                T* kept = plan.fraction + axis * plane + t * plan.room;
                for (int64_t p = 0; p < plan.pixels; ++p) kept[p] = fraction[axis][p];
            }
        }
        const T* mask = request.fold_mask && plan.mask ? plan.mask + t * plan.room : nullptr;
        for (int corner = 0; corner < corners; ++corner) {
            int32_t* index = plan.index + corner * plane + t * plan.room;
            T* weight = plan.weight + corner * plane + t * plan.room;
            for (int64_t p = 0; p < plan.pixels; ++p) {
                int32_t location = 0;
                bool valid = true;
                T w = mask ? mask[p] : T(1);
                for (int axis = 0; axis < Axes; ++axis) {
                    const int upper = (corner >> (Axes - 1 - axis)) & 1;
                    const int32_t along = side[axis][upper][p];
                    valid = valid && along >= 0;
                    location += along;
                    w *= upper ? fraction[axis][p] : T(1) - fraction[axis][p];
                }
                index[p] = valid ? location : outside;
                weight[p] = w;
            }
        }
    }
}

template <class T>
void plan(const PlanRequest<T>& request, const SamplingPlan<T>& plan) {
    const bool v1 = request.v1;
    if (plan.axes == 1) return v1 ? plan_taps<T, 1, true>(request, plan) : plan_taps<T, 1, false>(request, plan);
    if (plan.axes == 2) return v1 ? plan_taps<T, 2, true>(request, plan) : plan_taps<T, 2, false>(request, plan);
    return v1 ? plan_taps<T, 3, true>(request, plan) : plan_taps<T, 3, false>(request, plan);
}

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
template <int Corners>
void sample_pairs_corners(const SamplingPlan<float>& plan, const float* source, int64_t pitch, int64_t channels,
                          const float* zeros, uint16_t* to, int64_t to_row, int64_t to_tap) {
    constexpr int n = lanes<float>;
    for (int64_t p = 0; p < plan.pixels; ++p) {
        for (int64_t t = 0; t < plan.taps; ++t) {
            const Sample<float, Corners> sample(plan, t * plan.room + p, source, pitch, zeros);
            uint16_t* row = to + p * to_row + t * to_tap;
            int64_t c = 0;
            for (; c + 2 * n <= channels; c += 2 * n) {
                const __m512bh both =
                    _mm512_cvtne2ps_pbh((__m512)sample.vector(c + n), (__m512)sample.vector(c));
                _mm512_storeu_si512(row + c, (__m512i)both);
            }
            for (; c < channels; c += n) {
                const int rest = static_cast<int>(channels - c < n ? channels - c : n);
                const __m256i bits = (__m256i)_mm512_cvtneps_pbh((__m512)sample.part(c, rest));
                _mm256_mask_storeu_epi16(row + c, static_cast<__mmask16>((1u << rest) - 1), bits);
            }
        }
    }
}

void sample_pairs(const SamplingPlan<float>& plan, const float* source, int64_t pitch, int64_t channels,
                  const float* zeros, uint16_t* to, int64_t to_row, int64_t to_tap) {
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

template <class T>
void scatter(const SamplingPlan<T>& plan, const int32_t* corners, int64_t count, const BackwardRun<T>& run) {
    constexpr int n = lanes<T>;
    const int64_t plane = plan.taps * plan.room;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t t = corners[i] >> 10, p = corners[i] >> 3 & 127, location = t * plan.room + p;
        const int64_t at = (corners[i] & 7) * plane + location;
        const T mask = plan.mask ? plan.mask[location] : T(1), weight = mask * plan.weight[at];
        const T* above = run.column_gradient + p * run.column_row + t * run.column_tap;
        T* to = run.gradient + static_cast<int64_t>(plan.index[at]) * run.pitch;
        int64_t c = 0;
        for (; c + n <= run.channels; c += n) store(to + c, load(to + c) + splat(weight) * load(above + c));
        for (; c < run.channels; ++c) to[c] += weight * above[c];
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

template <class T>
void depthwise_columns(int64_t pixels, int64_t taps, int64_t channels, const T* gradient, int64_t gradient_row,
                       const T* weight, int64_t weight_tap, T* to, int64_t to_row, int64_t to_tap) {
    for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t t = 0; t < taps; ++t) {
            const T* above = gradient + p * gradient_row;
            const T* scale = weight + t * weight_tap;
            T* row = to + p * to_row + t * to_tap;
            for (int64_t c = 0; c < channels; ++c) row[c] = above[c] * scale[c];
        }
    }
}

template <class T>
void depthwise_weight(int64_t pixels, int64_t taps, int64_t channels, const T* gradient, int64_t gradient_row,
                      const T* columns, int64_t column_row, int64_t column_tap, T* to, int64_t to_tap) {
    for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t t = 0; t < taps; ++t) {
            const T* above = gradient + p * gradient_row;
            const T* row = columns + p * column_row + t * column_tap;
            T* sum = to + t * to_tap;
            for (int64_t c = 0; c < channels; ++c) sum[c] += above[c] * row[c];
        }
    }
}

template <class T>
constexpr DeformConvKernels<T> table{lanes<T>,   read<T>,      write<T>,    row_range<T>,         plan<T>,
                                     sample<T>,  pairs_sampler<T>(), backward<T>, scatter<T>, finish<T>,
                                     depthwise_columns<T>, depthwise_weight<T>};

}  // namespace

const DeformConvKernels<float>& deform_conv_float() { return table<float>; }
const DeformConvKernels<double>& deform_conv_double() { return table<double>; }

}  // namespace dcn::DCN_ISA
