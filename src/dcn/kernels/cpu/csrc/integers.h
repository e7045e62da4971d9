// Divisions of sizes that round up.
#pragma once

#include <cstdint>

namespace dcn {
// Internal linkage: the same header is compiled for several instruction sets.
namespace {

constexpr int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }
constexpr int64_t round_up(int64_t value, int64_t step) { return ceil_div(value, step) * step; }

}  // namespace
}  // namespace dcn
