// Where the taps of DCNv3 and DCNv4 lie, what they weigh, and the gradients of both. Compiled with -ffp-contract=off.
#include "dcnv3.h"

#include <cmath>
#include <cstring>
#include <type_traits>

#include "integers.h"
#include "vec_pairs.h"
#include "vec_wide.h"

// The arrays of a loop do not overlap: without this GCC gives up on vectors where it would have to compare ten pairs.
#if defined(__clang__)
#define DCN_DISJOINT _Pragma("clang loop vectorize(assume_safety)")
#else
#define DCN_DISJOINT _Pragma("GCC ivdep")
#endif

namespace dcn::DCN_ISA {
namespace {

// body(S{}) where S is the element type `dtype`, which is computed in T.
template <class T, class F>
void typed(int64_t dtype, F&& body) {
    for_type(dtype, [&](auto type) {
        if constexpr (std::is_same_v<Wide<decltype(type)>, T>) body(type);
    });
}

// e^x for x <= 0 (softmax), to 2 units in the last place; NaN stays NaN.
inline float exponential(float x) {
    const float safe = x > -87.0f ? x : -87.0f;  // also for NaN
    const int32_t whole = static_cast<int32_t>(safe * 1.44269504f - 0.5f);
    const float n = static_cast<float>(whole);
    const float r = (safe - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const float result = (p * r * r + r + 1.0f) * float_of_bits(static_cast<uint32_t>(whole + 127) << 23);
    const float bounded = x < -87.0f ? 0.0f : result;
    return x == x ? bounded : x;
}

inline double exponential(double x) { return std::exp(x); }

// Softmax over each of `rows` rows of masks. The rows become columns of `turned` first, where neighbouring lanes of a
// vector are neighbouring rows: a row of 9 taps fits no vector. `row_sum` has room for a number per row.
template <class T>
void normalise(T* __restrict mask, T* __restrict turned, T* __restrict row_sum, int64_t rows, int64_t taps) {
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t k = 0; k < taps; ++k) turned[k * rows + r] = mask[r * taps + k];
    }
    for (int64_t r = 0; r < rows; ++r) row_sum[r] = turned[r];
    for (int64_t k = 1; k < taps; ++k) {
        const T* __restrict column = turned + k * rows;
        for (int64_t r = 0; r < rows; ++r) row_sum[r] = column[r] > row_sum[r] ? column[r] : row_sum[r];
    }
    for (int64_t k = 0; k < taps; ++k) {
        T* __restrict column = turned + k * rows;
        for (int64_t r = 0; r < rows; ++r) column[r] = exponential(column[r] - row_sum[r]);
    }
    for (int64_t r = 0; r < rows; ++r) row_sum[r] = 0;
    for (int64_t k = 0; k < taps; ++k) {
        const T* __restrict column = turned + k * rows;
        for (int64_t r = 0; r < rows; ++r) row_sum[r] += column[r];
    }
    for (int64_t r = 0; r < rows; ++r) row_sum[r] = 1 / row_sum[r];
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t k = 0; k < taps; ++k) mask[r * taps + k] = turned[k * rows + r] * row_sum[r];
    }
}

// A row of a tensor; behind it `to` may be overwritten up to a whole vector.
template <class T, class S>
inline void take(const S* from, int64_t count, T* to) {
    constexpr int n = lanes<T>;
    int64_t c = 0;
    for (; c + n <= count; c += n) store(to + c, load_wide(from + c));
    if (c == count) return;
    if (!masked_memory && c > 0) {  // the last whole vector again
        store(to + count - n, load_wide(from + count - n));
    } else {
        store(to + c, load_wide_part(from + c, static_cast<int>(count - c)));
    }
}

template <class T, class S>
inline void put(const T* from, int64_t count, S* to) {
    constexpr int n = lanes<T>;
    int64_t c = 0;
    for (; c + n <= count; c += n) store_narrow(to + c, load(from + c));
    if (c == count) return;
    if (c > 0) {
        store_narrow(to + count - n, load(from + count - n));
    } else {
        store_narrow_part(to + c, load(from + c), static_cast<int>(count - c));
    }
}

// body(location of the block, row of the tensor, number of the row) for every location and group.
template <class S, class F>
inline void each_row(const DcnV3Call& call, const DcnV3Block& block, S* tensor, int64_t row, int64_t group, F&& body) {
    const int64_t locations = block.count, groups = block.groups;
    S* location = tensor + (block.image * call.out[0] * call.out[1] + block.first) * row + block.group * group;
    int64_t number = 0;
    for (int64_t i = 0; i < locations; ++i, location += row) {
        S* at = location;
        for (int64_t g = 0; g < groups; ++g, at += group) body(i, at, number++);
    }
}

template <class T>
void shifts(const DcnV3Call& call, const DcnV3Taps<T>& taps) {
    for (int64_t k = 0; k < call.taps; ++k) {
        taps.shift_y[k] = static_cast<T>(call.shifts[2 * k]);
        taps.shift_x[k] = static_cast<T>(call.shifts[2 * k + 1]);
    }
}

// Two vectors of x and y from `pairs` pairs of a row, of which the last ones may be missing.
template <class T, class S>
inline void take_pairs(const S* from, int64_t pairs, Vec<T>& x, Vec<T>& y) {
    constexpr int64_t n = lanes<T>;
    const auto some = [&](int64_t at) {
        const int64_t left = 2 * pairs - at;
        if (left >= n) return load_wide(from + at);
        return left > 0 ? load_wide_part(from + at, static_cast<int>(left)) : Vec<T>{};
    };
    split_pairs<T>(some(0), some(n), x, y, all_lanes<T>);
}

// x and y of the taps of one row, whose pattern has its centre at (centre_x, centre_y).
template <class T, class S>
inline void positions(const S* from, int64_t count, T scale, T centre_x, T centre_y, const DcnV3Taps<T>& taps, T* to_x,
                      T* to_y) {
    constexpr int64_t n = lanes<T>;
    for (int64_t c = 0; c < count; c += n) {
        if (!masked_memory && c > 0 && count - c < n) c = count - n;  // the last whole vector again
        Vec<T> x, y;
        take_pairs<T>(from + 2 * c, count - c, x, y);
        store(to_x + c, centre_x + scale * (load(taps.shift_x + c) + x));
        store(to_y + c, centre_y + scale * (load(taps.shift_y + c) + y));
    }
}

template <class T>
void read(const DcnV3Call& call, const DcnV3Block& block, const DcnV3Taps<T>& taps) {
    const int64_t count = call.taps, width = call.out[1];
    const int64_t stride_y = call.stride[0], stride_x = call.stride[1];
    const int64_t origin_y = call.origin[0], origin_x = call.origin[1];
    const T scale = static_cast<T>(call.offset_scale);
    const DcnV3Taps<T> to = taps;
    typed<T>(call.offset_dtype, [&](auto type) {
        const auto* offset = static_cast<const decltype(type)*>(call.offset);
        // The next location is counted, not divided: a division costs more than a tap.
        int64_t row = block.first / width, column = block.first % width, location = 0;
        each_row(call, block, offset, call.offset_row, call.offset_group, [&](int64_t i, const auto* from, int64_t at) {
            if (i != location) {
                location = i;
                if (++column == width) column = 0, ++row;
            }
            positions(from, count, scale, static_cast<T>(column * stride_x + origin_x),
                      static_cast<T>(row * stride_y + origin_y), to, to.x + at * count, to.y + at * count);
        });
    });
    typed<T>(call.mask_dtype, [&](auto type) {
        const auto* mask = static_cast<const decltype(type)*>(call.mask);
        each_row(call, block, mask, call.mask_row, call.mask_group,
                 [&](int64_t, const auto* from, int64_t number) { take(from, count, to.mask + number * count); });
    });
    if (call.softmax) normalise(taps.mask, taps.along_x, taps.along_y, block.count * block.groups, count);
}

// `value` where all bits of `bits` are set, 0 where none is, also in place of NaN and infinity; without a choice, which
// GCC does not vectorise.
template <class T>
inline T kept(T value, int32_t bits) {
    std::conditional_t<sizeof(T) == 4, int32_t, int64_t> from;
    std::memcpy(&from, &value, sizeof from);
    from &= static_cast<decltype(from)>(bits);
    std::memcpy(&value, &from, sizeof from);
    return value;
}

// The largest whole number that is not above x, for -1 < x < 2^31.
template <class T>
inline T floor_of(T x) {
#if defined(__SSE4_1__) || defined(__aarch64__)
    if constexpr (sizeof(T) == 4) return __builtin_floorf(x);  // one instruction
    return __builtin_floor(x);
#else
    const T whole = static_cast<T>(static_cast<int32_t>(x));
    return whole > x ? whole - 1 : whole;
#endif
}

// What is true or false here is all bits or none: choices between numbers took half of the time of this loop.
template <class T, bool Weights>
void place(const DcnV3Call& call, const DcnV3Block& block, const DcnV3Taps<T>& taps) {
    const int64_t count = round_up(block.count * block.groups * call.taps, lanes<T>);
    const T height = static_cast<T>(call.height), tall = static_cast<T>(call.width);
    const int32_t width = static_cast<int32_t>(call.width), pitch = block.pitch, origin = block.origin;
    const int32_t outside = block.outside, first = block.row_first, end = block.row_end;
    const T* __restrict x = taps.x;
    const T* __restrict y = taps.y;
    const T* __restrict mask = taps.mask;
    T* __restrict along_x = taps.along_x;
    T* __restrict along_y = taps.along_y;
    T* __restrict weight = taps.weight;
    int32_t* __restrict pixel = taps.pixel;
    int32_t* __restrict inside = taps.inside;
    DCN_DISJOINT
    for (int64_t i = 0; i < count; ++i) {
        // Compared before they become integers: that conversion is undefined for NaN and for 1e30.
        const int32_t valid = (y[i] > -1) & (y[i] < height) & (x[i] > -1) & (x[i] < tall) ? -1 : 0;
        const T safe_x = kept(x[i], valid), safe_y = kept(y[i], valid);
        const T floor_x = floor_of(safe_x), floor_y = floor_of(safe_y);
        const int32_t column = static_cast<int32_t>(floor_x), row = static_cast<int32_t>(floor_y);
        const T fx = safe_x - floor_x, fy = safe_y - floor_y;
        along_x[i] = fx;
        along_y[i] = fy;
        pixel[i] = ((row * pitch + column + origin) & valid) | (outside & ~valid);
        // The sign of a difference says which is less.
        const int32_t left = ~(column >> 31) & valid, right = ((column + 1 - width) >> 31) & valid;
        const int32_t low = ~((row - first) >> 31) & ((row - end) >> 31);
        const int32_t high = ~((row + 1 - first) >> 31) & ((row + 1 - end) >> 31);
        inside[i] = ((left & 5) | (right & 10)) & ((low & 3) | (high & 12));
        if constexpr (Weights) {
            // Exactly 0 where a corner does not count: the mask may be infinite.
            const T m = mask[i];
            weight[4 * i] = kept((1 - fy) * (1 - fx) * m, left & low);
            weight[4 * i + 1] = kept((1 - fy) * fx * m, right & low);
            weight[4 * i + 2] = kept(fy * (1 - fx) * m, left & high);
            weight[4 * i + 3] = kept(fy * fx * m, right & high);
        }
    }
}

template <class T>
void corners(const DcnV3Call& call, const DcnV3Block& block, const DcnV3Taps<T>& taps, bool weights) {
    weights ? place<T, true>(call, block, taps) : place<T, false>(call, block, taps);
}

// Gradients by x, y and the mask, before the softmax.
template <class T>
void slopes(const DcnV3Call& call, const DcnV3Taps<T>& taps, int64_t count) {
    const T scale = static_cast<T>(call.offset_scale);
    T* __restrict by_pair = taps.pairs;
    T* __restrict by_mask = taps.weight;
    const T* __restrict dot = taps.dot;
    const T* __restrict along_x = taps.along_x;
    const T* __restrict along_y = taps.along_y;
    const T* __restrict mask = taps.mask;
    const int32_t* __restrict inside = taps.inside;
    DCN_DISJOINT
    for (int64_t i = 0; i < count; ++i) {
        const T fx = along_x[i], fy = along_y[i];
        const int32_t bits = inside[i];
        const T dot0 = kept(dot[4 * i], -(bits & 1)), dot1 = kept(dot[4 * i + 1], -(bits >> 1 & 1));
        const T dot2 = kept(dot[4 * i + 2], -(bits >> 2 & 1)), dot3 = kept(dot[4 * i + 3], -(bits >> 3));
        const T factor = inside[i] ? mask[i] * scale : T(0);  // a mask of NaN outside the map counts as 0
        by_pair[2 * i] = ((1 - fy) * (dot1 - dot0) + fy * (dot3 - dot2)) * factor;
        by_pair[2 * i + 1] = ((1 - fx) * (dot2 - dot0) + fx * (dot3 - dot1)) * factor;
        by_mask[i] = (1 - fy) * ((1 - fx) * dot0 + fx * dot1) + fy * ((1 - fx) * dot2 + fx * dot3);
    }
}

// The gradient by the logits, in place of that by the masks. `mean` has room for a number per row.
template <class T>
void through_softmax(const T* __restrict mask, T* __restrict by_mask, T* __restrict mean, int64_t rows, int64_t taps) {
    for (int64_t r = 0; r < rows; ++r) mean[r] = 0;
    for (int64_t k = 0; k < taps; ++k) {
        for (int64_t r = 0; r < rows; ++r) mean[r] += mask[r * taps + k] * by_mask[r * taps + k];
    }
    for (int64_t k = 0; k < taps; ++k) {
        for (int64_t r = 0; r < rows; ++r) {
            by_mask[r * taps + k] = mask[r * taps + k] * (by_mask[r * taps + k] - mean[r]);
        }
    }
}

template <class T>
void gradients(const DcnV3Call& call, const DcnV3Block& block, const DcnV3Taps<T>& taps) {
    const int64_t count = call.taps, rows = block.count * block.groups;
    slopes(call, taps, round_up(rows * count, lanes<T>));
    if (call.softmax) through_softmax(taps.mask, taps.weight, taps.weight + rows * count, rows, count);
    if (call.grad_offset) {
        typed<T>(call.offset_dtype, [&](auto type) {
            auto* grad = static_cast<decltype(type)*>(call.grad_offset);
            each_row(call, block, grad, call.offset_row, call.offset_group, [&](int64_t, auto* to, int64_t number) {
                put(taps.pairs + number * 2 * count, 2 * count, to);
            });
        });
    }
    if (call.grad_mask) {
        typed<T>(call.mask_dtype, [&](auto type) {
            auto* grad = static_cast<decltype(type)*>(call.grad_mask);
            each_row(call, block, grad, call.mask_row, call.mask_group,
                     [&](int64_t, auto* to, int64_t number) { put(taps.weight + number * count, count, to); });
        });
    }
}

template <class T>
constexpr DcnV3Placing<T> table{shifts<T>, read<T>, corners<T>, gradients<T>};

}  // namespace

const DcnV3Placing<float>& dcnv3_placing_float() { return table<float>; }
const DcnV3Placing<double>& dcnv3_placing_double() { return table<double>; }

}  // namespace dcn::DCN_ISA
