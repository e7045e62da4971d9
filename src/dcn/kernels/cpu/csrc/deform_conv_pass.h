// A pass over the work of a call, which is done or only shared out. It is a class template of the element type with
//
//     explicit Pass(const DcnDeformConv&)
//     void choose()              how the work is cut; computes nothing
//     void reserve()             takes the memory
//     void run_loops(Team&)      the work, as loops of a DcnTeam or of a DcnShares (shares.h)
#pragma once

#include "deform_conv.h"
#include "parallel.h"
#include "shares.h"

namespace dcn {

template <template <class> class Pass>
void run_pass(const DcnDeformConv& call) {
    for_type(call.dtype, [&](auto type) {
        Pass<decltype(type)> pass(call);
        pass.choose();
        pass.reserve();
        dcn_with_team(static_cast<int>(call.threads), [&](DcnTeam& team) { pass.run_loops(team); });
    });
}

// The time of the pass over that of an even share among the threads of the call; nothing is computed.
template <template <class> class Pass>
double shares_of_pass(const DcnDeformConv& call) {
    DcnShares team(static_cast<int>(call.threads));
    for_type(call.dtype, [&](auto type) {
        Pass<decltype(type)> pass(call);
        pass.choose();
        pass.run_loops(team);
    });
    return team.over_mean();
}

}  // namespace dcn
