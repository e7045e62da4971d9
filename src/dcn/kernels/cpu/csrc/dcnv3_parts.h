// What the two ways through a call of DCNv3 share: dcnv3.cpp and dcnv3_group.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "dcnv3.h"
#include "integers.h"

namespace dcn {

template <class S, template <class, class> class Loops>
const Loops<S, typename Compute<S>::type>& of_type(const DcnV3Table<Loops>& table) {
    if constexpr (std::is_same_v<S, double>) {
        return table.f64;
    } else if constexpr (std::is_same_v<S, float>) {
        return table.f32;
    } else if constexpr (std::is_same_v<S, Half>) {
        return table.f16;
    } else {
        return table.bf16;
    }
}

template <class T>
const DcnV3Placing<T>& placing() {
    if constexpr (std::is_same_v<T, double>) {
        return DCN_FOR_ISA(dcnv3_placing_double)();
    } else {
        return DCN_FOR_ISA(dcnv3_placing_float)();
    }
}

// Bytes of the tensors that a call reads; the output and the gradients are as large as what they belong to.
struct DcnV3Bytes {
    int64_t input, output, offset, mask;

    explicit DcnV3Bytes(const DcnV3Call& call) {
        const int64_t locations = call.batch * call.out[0] * call.out[1];
        input = call.batch * call.height * call.width * call.channels * size_of(call.dtype);
        output = locations * call.channels * size_of(call.dtype);
        offset = locations * call.offset_row * size_of(call.offset_dtype);
        const bool apart = call.mask_group == call.taps;  // else masks lie between the offsets
        mask = apart ? locations * call.mask_row * size_of(call.mask_dtype) : 0;
    }

    int64_t of_call(const DcnV3Call& call) const {
        return (input + output + offset + mask) * (call.grad_output ? 2 : 1);
    }
};

// The arrays of one worker, with room for the taps of `rows` locations and groups.
template <class T>
class DcnV3Arrays {
   public:
    DcnV3Arrays(const DcnV3Call& call, int64_t rows)
        : room_(round_up(rows * call.taps, slack) + slack), reals_(17 * room_), wholes_(2 * room_),
          zeros_(call.channels / call.groups), waste_(4 * zeros_.size()) {
        T* at = reals_.data();
        const auto next = [&](int64_t arrays = 1) { return std::exchange(at, at + arrays * room_); };
        taps = {next(), next(), next(2), next(), next(), next(), next(), next(), next(4), next(4),
                wholes_.data(), wholes_.data() + room_, zeros_.data(), waste_.data(),
                static_cast<int64_t>(zeros_.size())};
        placing<T>().shifts(call, taps);
    }
    DcnV3Taps<T> taps;

   private:
    static constexpr int64_t slack = 16;  // lanes of the widest vector
    int64_t room_;
    std::vector<T> reals_;
    std::vector<int32_t> wholes_;
    std::vector<T> zeros_, waste_;
};

// What a tap costs, in multiplications or what takes as long: to find its corners, and to work on them.
constexpr int64_t placing_cost = 50;
inline int64_t corners_cost(const DcnV3Call& call) { return 4 * (call.channels / call.groups); }

// One for each of `threads` workers.
template <class T>
std::vector<DcnV3Arrays<T>> dcnv3_workers(const DcnV3Call& call, int64_t rows) {
    std::vector<DcnV3Arrays<T>> result;
    result.reserve(call.threads);
    for (int64_t i = 0; i < call.threads; ++i) result.emplace_back(call, rows);
    return result;
}

// dcnv3_group.cpp: one group of an image at a time, on a copy of its map. The same bits come out.
bool dcnv3_groups_fit(const DcnV3Call& call);
template <class S>
void dcnv3_group_forward(const DcnV3Call& call);
// False, and nothing done, where the threads would not share the groups evenly.
template <class S>
bool dcnv3_group_backward(const DcnV3Call& call);

}  // namespace dcn
