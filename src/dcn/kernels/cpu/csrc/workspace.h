// Scratch memory of one kernel call: sized first, then taken in one piece. A piece of up to 32 MiB is kept for the next
// call: fresh pages cost about 1 us per 4 KiB here, 1.5 ms of a 25 ms convolution.
#pragma once

#include <cstddef>
#include <cstdint>

#include "integers.h"

namespace dcn {

template <class T>
struct Room {
    int64_t start = 0;
    int64_t count = 0;
};

class Workspace {
   public:
    Workspace() = default;
    ~Workspace();
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    // Reserves room for `count` elements, aligned to 64 bytes.
    template <class T>
    Room<T> plan(int64_t count) {
        const Room<T> room{bytes_, count};
        bytes_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
        return room;
    }

    int64_t bytes() const { return bytes_; }

    // Takes the memory; throws std::bad_alloc. The contents are undefined.
    void take();

    template <class T>
    T* at(Room<T> room) const {
        return reinterpret_cast<T*>(memory_ + room.start);
    }

   private:
    int64_t bytes_ = 0;
    int64_t capacity_ = 0;
    char* memory_ = nullptr;
};

}  // namespace dcn
