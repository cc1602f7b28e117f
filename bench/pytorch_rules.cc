// SPDX-License-Identifier: Apache-2.0
#include "pytorch_rules.h"

#include <memory>
#include <mutex>
#include <set>
#include <tuple>
#include <unordered_map>

namespace
{

constexpr uint64_t MIB = 1048576, MIN_BLOCK = 512, SMALL_SIZE = MIB;

struct block {
    uint64_t address, bytes;
    bool small, live;
    block *previous, *next; // of the segment
};

struct by_size {
    bool operator()(const block *a, const block *b) const
    {
        return std::tie(a->bytes, a->address) < std::tie(b->bytes, b->address);
    }
};

uint64_t round_up(uint64_t value, uint64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

uint64_t segment_bytes(uint64_t bytes)
{
    if (bytes <= SMALL_SIZE) {
        return 2 * MIB;
    }
    return bytes < 10 * MIB ? 20 * MIB : round_up(bytes, 2 * MIB);
}

} // namespace

struct pytorch_rules {
    std::recursive_mutex mutex;
    std::set<block *, by_size> free_small, free_large;
    std::unordered_map<uint64_t, block *> live;
    std::set<std::unique_ptr<block>> segments; // their first blocks, which stay
    uint64_t next_address = MIB;

    std::set<block *, by_size> &free_of(bool small)
    {
        return small ? free_small : free_large;
    }

    block *find(uint64_t bytes, bool small)
    {
        auto &blocks = free_of(small);
        block key{0, bytes, small, false, nullptr, nullptr};
        auto found = blocks.lower_bound(&key);
        if (found == blocks.end()) {
            return nullptr;
        }
        block *fit = *found;
        blocks.erase(found);
        return fit;
    }

    block *add_segment(uint64_t bytes, bool small)
    {
        uint64_t size = segment_bytes(bytes);
        auto first = std::make_unique<block>(block{next_address, size, small, false, nullptr, nullptr});
        block *fit = first.get();
        next_address += size;
        segments.insert(std::move(first));
        return fit;
    }

    void split(block *from, uint64_t bytes)
    {
        uint64_t left = from->bytes - bytes;
        if (from->small ? left < MIN_BLOCK : left <= SMALL_SIZE) {
            return;
        }
        auto *rest = new block{from->address + bytes, left, from->small, false, from, from->next};
        if (rest->next != nullptr) {
            rest->next->previous = rest;
        }
        from->next = rest;
        from->bytes = bytes;
        free_of(rest->small).insert(rest);
    }

    // The neighbour behind the block becomes part of it.
    static void absorb(block *into)
    {
        block *next = into->next;
        into->bytes += next->bytes;
        into->next = next->next;
        if (into->next != nullptr) {
            into->next->previous = into;
        }
        delete next;
    }

    void give(block *returned)
    {
        auto &blocks = free_of(returned->small);
        if (returned->next != nullptr && !returned->next->live) {
            blocks.erase(returned->next);
            absorb(returned);
        }
        if (returned->previous != nullptr && !returned->previous->live) {
            returned = returned->previous;
            blocks.erase(returned);
            absorb(returned);
        }
        blocks.insert(returned);
    }
};

pytorch_rules *pytorch_rules_create()
{
    return new pytorch_rules;
}

void pytorch_rules_destroy(pytorch_rules *rules)
{
    for (const auto &first : rules->segments) {
        while (first->next != nullptr) {
            pytorch_rules::absorb(first.get());
        }
    }
    delete rules;
}

uint64_t pytorch_rules_alloc(pytorch_rules *rules, uint64_t request)
{
    std::lock_guard<std::recursive_mutex> lock(rules->mutex);
    uint64_t bytes = round_up(request, MIN_BLOCK);
    bool small = bytes <= SMALL_SIZE;
    block *fit = rules->find(bytes, small);
    if (fit == nullptr) {
        fit = rules->add_segment(bytes, small);
    }
    rules->split(fit, bytes);
    fit->live = true;
    rules->live.emplace(fit->address, fit);
    return fit->address;
}

void pytorch_rules_free(pytorch_rules *rules, uint64_t address)
{
    std::lock_guard<std::recursive_mutex> lock(rules->mutex);
    auto found = rules->live.find(address);
    block *returned = found->second;
    rules->live.erase(found);
    returned->live = false;
    rules->give(returned);
}

uint64_t pytorch_rules_segments(const pytorch_rules *rules)
{
    return rules->segments.size();
}
