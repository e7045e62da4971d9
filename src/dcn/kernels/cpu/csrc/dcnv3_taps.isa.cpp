// Where the taps of DCNv3 and DCNv4 lie, what they weigh, and the gradients of both. Compiled with -ffp-contract=off.
#include "dcnv3.h"

#include <cmath>
#include <cstring>
#include <type_traits>

#include "vec.h"

// The arrays of a loop do not overlap: without this GCC gives up on vectors where it would have to compare ten pairs.
#if defined(__clang__)
#define DCN_DISJOINT _Pragma("clang loop vectorize(assume_safety)")
#else
#define DCN_DISJOINT _Pragma("GCC ivdep")
#endif

namespace dcn::DCN_ISA {
namespace {

// body(pointer of the right type) for a tensor of the given element type.
template <class T, class F>
void typed(const void* data, int64_t dtype, F&& body) {
    for_type(dtype, [&](auto type) { body(static_cast<const decltype(type)*>(data)); });
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

template <class T>
void read(const DcnV3Call& call, const DcnV3Block& block, const DcnV3Taps<T>& taps) {
    const int64_t count = call.taps, locations = call.out[0] * call.out[1];
    const T scale = static_cast<T>(call.offset_scale);
    typed<T>(call.offset, call.offset_dtype, [&](const auto* offset) {
        int64_t at = 0;
        for (int64_t location = block.first; location < block.first + block.count; ++location) {
            const int64_t row = location / call.out[1], column = location % call.out[1];
            const T centre_y = static_cast<T>(row * call.stride[0] + call.origin[0]);
            const T centre_x = static_cast<T>(column * call.stride[1] + call.origin[1]);
            const auto* from = offset + (block.image * locations + location) * call.offset_row;
            for (int64_t g = block.group; g < block.group + block.groups; ++g, at += count) {
                const auto* pair = from + g * call.offset_group;
                for (int64_t k = 0; k < count; ++k) {
                    const T shift_y = static_cast<T>(call.shifts[2 * k]), shift_x = static_cast<T>(call.shifts[2 * k + 1]);
                    taps.x[at + k] = centre_x + scale * (shift_x + static_cast<T>(widen(pair[2 * k])));
                    taps.y[at + k] = centre_y + scale * (shift_y + static_cast<T>(widen(pair[2 * k + 1])));
                }
            }
        }
    });
    typed<T>(call.mask, call.mask_dtype, [&](const auto* mask) {
        T* to = taps.mask;
        for (int64_t location = block.first; location < block.first + block.count; ++location) {
            const auto* from = mask + (block.image * locations + location) * call.mask_row;
            for (int64_t g = block.group; g < block.group + block.groups; ++g, to += count) {
                for (int64_t k = 0; k < count; ++k) to[k] = static_cast<T>(widen(from[g * call.mask_group + k]));
            }
        }
    });
    if (call.softmax) normalise(taps.mask, taps.along_x, taps.along_y, block.count * block.groups, count);
}

template <class T>
void corners(const DcnV3Call& call, const DcnV3Block& block, const DcnV3Taps<T>& taps, bool weights) {
    const int64_t count = block.count * block.groups * call.taps;
    const T height = static_cast<T>(call.height), tall = static_cast<T>(call.width);
    const int32_t width = static_cast<int32_t>(call.width), first = block.row_first, end = block.row_end;
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
        pixel[i] = row * width + column;
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
    T* __restrict by_x = taps.x;
    T* __restrict by_y = taps.y;
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
        by_x[i] = ((1 - fy) * (dot1 - dot0) + fy * (dot3 - dot2)) * factor;
        by_y[i] = ((1 - fx) * (dot2 - dot0) + fx * (dot3 - dot1)) * factor;
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

template <class T, class S>
inline void put(T value, S& to) {
    if constexpr (sizeof(S) == 8) {
        to = value;
    } else {
        narrow(static_cast<float>(value), to);
    }
}

template <class T>
void gradients(const DcnV3Call& call, const DcnV3Block& block, const DcnV3Taps<T>& taps) {
    const int64_t count = call.taps, locations = call.out[0] * call.out[1], rows = block.count * block.groups;
    slopes(call, taps, rows * count);
    if (call.softmax) through_softmax(taps.mask, taps.weight, taps.weight + rows * count, rows, count);
    const auto each = [&](int64_t row, int64_t group, auto* to, auto&& body) {
        int64_t at = 0;
        for (int64_t location = block.first; location < block.first + block.count; ++location) {
            auto* start = to + (block.image * locations + location) * row;
            for (int64_t g = block.group; g < block.group + block.groups; ++g, at += count) body(start + g * group, at);
        }
    };
    if (call.grad_offset) {
        typed<T>(call.grad_offset, call.offset_dtype, [&](const auto* grad) {
            auto* to = const_cast<std::remove_const_t<std::remove_pointer_t<decltype(grad)>>*>(grad);
            each(call.offset_row, call.offset_group, to, [&](auto* pair, int64_t at) {
                for (int64_t k = 0; k < count; ++k) {
                    put(taps.x[at + k], pair[2 * k]);
                    put(taps.y[at + k], pair[2 * k + 1]);
                }
            });
        });
    }
    if (call.grad_mask) {
        typed<T>(call.grad_mask, call.mask_dtype, [&](const auto* grad) {
            auto* to = const_cast<std::remove_const_t<std::remove_pointer_t<decltype(grad)>>*>(grad);
            each(call.mask_row, call.mask_group, to, [&](auto* one, int64_t at) {
                for (int64_t k = 0; k < count; ++k) put(taps.weight[at + k], one[k]);
            });
        });
    }
}

template <class T>
constexpr DcnV3Placing<T> table{read<T>, corners<T>, gradients<T>};

}  // namespace

const DcnV3Placing<float>& dcnv3_placing_float() { return table<float>; }
const DcnV3Placing<double>& dcnv3_placing_double() { return table<double>; }

}  // namespace dcn::DCN_ISA
