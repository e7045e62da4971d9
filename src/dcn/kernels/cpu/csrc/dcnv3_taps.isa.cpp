// Where the taps of DCNv3 and DCNv4 lie, what they weigh, and the gradients of both. Compiled with -ffp-contract=off.
#include "dcnv3.h"

#include <cmath>
#include <cstring>
#include <type_traits>

#include "integers.h"
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

// `count` entries at `to`; whole vectors are written, so up to one more.
template <class T>
inline void fill(T value, int64_t count, T* to) {
    for (int64_t c = 0; c < count; c += lanes<T>) store(to + c, splat(value));
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
    for (; c + n <= count; c += n) store_narrow(to + c, load(from + c), n);
    if (c == count) return;
    if (!masked_memory && c > 0) {
        store_narrow(to + count - n, load(from + count - n), n);
    } else {
        store_narrow(to + c, load(from + c), static_cast<int>(count - c));
    }
}

// body(row of the tensor at the location and group, its number in the block)
template <class S, class F>
inline void each_row(const DcnV3Call& call, const DcnV3Block& block, S* tensor, int64_t row, int64_t group, F&& body) {
    S* location = tensor + (block.image * call.out[0] * call.out[1] + block.first) * row + block.group * group;
    int64_t number = 0;
    for (int64_t i = 0; i < block.count; ++i, location += row) {
        S* at = location;
        for (int64_t g = 0; g < block.groups; ++g, at += group) body(at, number++);
    }
}

template <class T>
void shifts(const DcnV3Call& call, int64_t rows, const DcnV3Taps<T>& taps) {
    int64_t at = 0;
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t k = 0; k < call.taps; ++k, ++at) {
            taps.shift_y[at] = static_cast<T>(call.shifts[2 * k]);
            taps.shift_x[at] = static_cast<T>(call.shifts[2 * k + 1]);
        }
    }
}

// Rows of the tensors are taken one by one, all that is computed then in one loop: 9 taps fill no vector.
template <class T>
void read(const DcnV3Call& call, const DcnV3Block& block, const DcnV3Taps<T>& taps) {
    const int64_t count = call.taps, rows = block.count * block.groups;
    typed<T>(call.offset_dtype, [&](auto type) {
        const auto* offset = static_cast<const decltype(type)*>(call.offset);
        each_row(call, block, offset, call.offset_row, call.offset_group, [&](const auto* from, int64_t number) {
            take(from, 2 * count, taps.pairs + number * 2 * count);
        });
    });
    typed<T>(call.mask_dtype, [&](auto type) {
        const auto* mask = static_cast<const decltype(type)*>(call.mask);
        each_row(call, block, mask, call.mask_row, call.mask_group,
                 [&](const auto* from, int64_t number) { take(from, count, taps.mask + number * count); });
    });
    const int64_t per_location = block.groups * count;
    int64_t row = block.first / call.out[1], column = block.first % call.out[1];
    for (int64_t i = 0; i < block.count; ++i) {
        fill(static_cast<T>(row * call.stride[0] + call.origin[0]), per_location, taps.y + i * per_location);
        fill(static_cast<T>(column * call.stride[1] + call.origin[1]), per_location, taps.x + i * per_location);
        if (++column == call.out[1]) column = 0, ++row;
    }
    const T scale = static_cast<T>(call.offset_scale);
    const T* __restrict pairs = taps.pairs;
    const T* __restrict shift_x = taps.shift_x;
    const T* __restrict shift_y = taps.shift_y;
    T* __restrict x = taps.x;
    T* __restrict y = taps.y;
    const int64_t padded = round_up(rows * count, lanes<T>);
    DCN_DISJOINT
    for (int64_t i = 0; i < padded; ++i) {
        x[i] = x[i] + scale * (shift_x[i] + pairs[2 * i]);
        y[i] = y[i] + scale * (shift_y[i] + pairs[2 * i + 1]);
    }
    if (call.softmax) normalise(taps.mask, taps.along_x, taps.along_y, rows, count);
}

template <class T>
void corners(const DcnV3Call& call, const DcnV3Block& block, const DcnV3Taps<T>& taps, bool weights) {
    const int64_t count = round_up(block.count * block.groups * call.taps, lanes<T>);
    const T height = static_cast<T>(call.height), tall = static_cast<T>(call.width);
    const int32_t width = static_cast<int32_t>(call.width), first = block.row_first, end = block.row_end;
    const int32_t pitch = block.pitch, origin = block.origin, outside = block.outside;
    const T* __restrict x = taps.x;
    const T* __restrict y = taps.y;
    T* __restrict along_x = taps.along_x;
    T* __restrict along_y = taps.along_y;
    int32_t* __restrict pixel = taps.pixel;
    int32_t* __restrict inside = taps.inside;
    DCN_DISJOINT
    for (int64_t i = 0; i < count; ++i) {
        // Compared before they become integers: that conversion is undefined for NaN and for 1e30.
        const bool valid = (y[i] > -1) & (y[i] < height) & (x[i] > -1) & (x[i] < tall);
        const T safe_x = valid ? x[i] : T(0), safe_y = valid ? y[i] : T(0);
        int32_t column = static_cast<int32_t>(safe_x), row = static_cast<int32_t>(safe_y);
        column -= static_cast<T>(column) > safe_x ? 1 : 0;
        row -= static_cast<T>(row) > safe_y ? 1 : 0;
        along_x[i] = safe_x - static_cast<T>(column);
        along_y[i] = safe_y - static_cast<T>(row);
        pixel[i] = valid ? row * pitch + column + origin : outside;
        const int32_t left = column >= 0 ? 5 : 0, right = column + 1 < width ? 10 : 0;
        const int32_t low = (row >= first) & (row < end) ? 3 : 0, high = (row + 1 >= first) & (row + 1 < end) ? 12 : 0;
        inside[i] = valid ? (left | right) & (low | high) : 0;
    }
    if (!weights) return;
    const T* __restrict mask = taps.mask;
    T* __restrict weight = taps.weight;
    DCN_DISJOINT
    for (int64_t i = 0; i < count; ++i) {
        // Exactly 0 where a corner does not count: the mask may be infinite.
        const T fx = along_x[i], fy = along_y[i], m = mask[i];
        const T w0 = (1 - fy) * (1 - fx) * m, w1 = (1 - fy) * fx * m, w2 = fy * (1 - fx) * m, w3 = fy * fx * m;
        weight[4 * i] = inside[i] & 1 ? w0 : T(0);
        weight[4 * i + 1] = inside[i] & 2 ? w1 : T(0);
        weight[4 * i + 2] = inside[i] & 4 ? w2 : T(0);
        weight[4 * i + 3] = inside[i] & 8 ? w3 : T(0);
    }
}

// `value` where `flag` is 1, 0 where it is 0, NaN and infinity too; without a choice, which GCC does not vectorise.
template <class T>
inline T kept(T value, int32_t flag) {
    std::conditional_t<sizeof(T) == 4, int32_t, int64_t> bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits &= -static_cast<decltype(bits)>(flag);
    std::memcpy(&value, &bits, sizeof bits);
    return value;
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
        const T dot0 = kept(dot[4 * i], bits & 1), dot1 = kept(dot[4 * i + 1], bits >> 1 & 1);
        const T dot2 = kept(dot[4 * i + 2], bits >> 2 & 1), dot3 = kept(dot[4 * i + 3], bits >> 3 & 1);
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
            each_row(call, block, grad, call.offset_row, call.offset_group, [&](auto* to, int64_t number) {
                put(taps.pairs + number * 2 * count, 2 * count, to);
            });
        });
    }
    if (call.grad_mask) {
        typed<T>(call.mask_dtype, [&](auto type) {
            auto* grad = static_cast<decltype(type)*>(call.grad_mask);
            each_row(call, block, grad, call.mask_row, call.mask_group,
                     [&](auto* to, int64_t number) { put(taps.weight + number * count, count, to); });
        });
    }
}

template <class T>
constexpr DcnV3Placing<T> table{shifts<T>, read<T>, corners<T>, gradients<T>};

}  // namespace

const DcnV3Placing<float>& dcnv3_placing_float() { return table<float>; }
const DcnV3Placing<double>& dcnv3_placing_double() { return table<double>; }

}  // namespace dcn::DCN_ISA
