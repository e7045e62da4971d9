// Where the samples of deformable convolution lie and what their corners weigh; numbers of a tile read and written.
#include "deform_conv_plan.h"

#include <type_traits>

#include "vec_wide.h"

namespace dcn::DCN_ISA::planning {
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

}  // namespace

template <class T>
void read(const void* from, int32_t dtype, int64_t step, int64_t count, T* to) {
    for_type(dtype, [&](auto type) { read_as(static_cast<const decltype(type)*>(from), step, count, to); });
}

namespace {

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

}  // namespace

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

namespace {

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

}  // namespace

template <class T>
void plan(const PlanRequest<T>& request, const SamplingPlan<T>& plan) {
    const bool v1 = request.v1;
    if (plan.axes == 1) return v1 ? plan_taps<T, 1, true>(request, plan) : plan_taps<T, 1, false>(request, plan);
    if (plan.axes == 2) return v1 ? plan_taps<T, 2, true>(request, plan) : plan_taps<T, 2, false>(request, plan);
    return v1 ? plan_taps<T, 3, true>(request, plan) : plan_taps<T, 3, false>(request, plan);
}

template void read<float>(const void*, int32_t, int64_t, int64_t, float*);
template void read<double>(const void*, int32_t, int64_t, int64_t, double*);
template void write<float>(const float*, int64_t, void*, int32_t, int64_t, bool);
template void write<double>(const double*, int64_t, void*, int32_t, int64_t, bool);
template void row_range<float>(const float*, int64_t, float, int64_t, bool, int64_t*, int64_t*);
template void row_range<double>(const double*, int64_t, double, int64_t, bool, int64_t*, int64_t*);
template void plan<float>(const PlanRequest<float>&, const SamplingPlan<float>&);
template void plan<double>(const PlanRequest<double>&, const SamplingPlan<double>&);

}  // namespace dcn::DCN_ISA::planning
