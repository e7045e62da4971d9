// A pass over the work of a call. It is a class template of the element type with
//
//     explicit Pass(const DcnDeformConv&)
//     void choose()              how the work is cut; computes nothing
//     void reserve()             takes the memory
//     void run_loops(Team&)      the work, as loops of a DcnTeam or, told apart only, of a DcnShares (shares.h)
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
        if (DcnShares* shares = DcnShares::current) {
            shares->use(static_cast<int>(call.threads));
            return pass.run_loops(*shares);
        }
        dcn_with_team(static_cast<int>(call.threads), [&](DcnTeam& team) { pass.run_loops(team); });
    });
}

}  // namespace dcn
