// Element types of tensors. float16 and bfloat16 exist in memory only: they are read into and written from float. Plain
// integer arithmetic, so that loops over them vectorise on every instruction set and need no F16C.
#pragma once

#include <cstdint>
#include <cstring>

namespace dcn {

enum DType : int32_t { dtype_f32 = 0, dtype_f64 = 1, dtype_f16 = 2, dtype_bf16 = 3 };

struct Half {
    uint16_t bits;
};

struct BFloat {
    uint16_t bits;
};

// What elements of type S are computed in.
template <class S>
struct Compute {
    using type = float;
};
template <>
struct Compute<double> {
    using type = double;
};

// Bytes of an element.
constexpr int64_t size_of(int64_t dtype) { return dtype == dtype_f64 ? 8 : dtype == dtype_f32 ? 4 : 2; }

// All other functions here have internal linkage: the same header is compiled for several instruction sets.
namespace {

// body(S{}) where S is the type in memory of elements of `dtype`.
template <class F>
inline void for_type(int64_t dtype, F&& body) {
    switch (dtype) {
        case dtype_f64: return body(double{});
        case dtype_f16: return body(Half{});
        case dtype_bf16: return body(BFloat{});
        default: return body(float{});
    }
}

inline float float_of_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float widen(float value) { return value; }
inline double widen(double value) { return value; }
inline float widen(BFloat value) { return float_of_bits(static_cast<uint32_t>(value.bits) << 16); }

inline float widen(Half value) {
    const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
    const uint32_t rest = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
    // Scaling by 2^112 moves the exponent from bias 15 to bias 127 and normalises what was denormal.
    const float scaled = float_of_bits(rest) * float_of_bits(0x77800000u);
    const uint32_t special = rest >= 0x0f800000u ? 0x7f800000u : 0u;  // infinity and NaN keep an exponent of ones
    return float_of_bits(bits_of_float(scaled) | special | sign);
}

inline void narrow(float value, float& to) { to = value; }
inline void narrow(double value, double& to) { to = value; }

inline void narrow(float value, BFloat& to) {
    const uint32_t bits = bits_of_float(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    to.bits = static_cast<uint16_t>(nan ? 0x7fc0u : rounded);
}

inline void narrow(float value, Half& to) {
    const uint32_t bits = bits_of_float(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t size = bits & 0x7fffffffu;
    // Denormal results: adding 0.5 leaves the wanted 10 bits, rounded to even, at the bottom of the mantissa.
    const uint32_t small = bits_of_float(float_of_bits(size) + 0.5f) - 0x3f000000u;
    const uint32_t normal = (size - 0x38000000u + 0x0fffu + ((size >> 13) & 1u)) >> 13;
    const uint32_t large = size > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const uint32_t finite = size < 0x38800000u ? small : normal;
    to.bits = static_cast<uint16_t>(sign | (size >= 0x477ff000u ? large : finite));
}

}  // namespace
}  // namespace dcn
