// SPDX-License-Identifier: Apache-2.0
//
// The price of a micro-step: the exact bytes that its list needs, known without running it.
//
// A price book keeps every price that it was asked for, and of each purpose the last PRICE_LISTS_KEPT lists: one of
// GPT-2 takes 112 KiB, and half a millisecond to build again.
//
// Threads: one at a time. Ranks: nothing is collective.
#ifndef HEADROOM_MODEL_PRICE_H
#define HEADROOM_MODEL_PRICE_H

#include "model/model.h"

// More than a share's micro-steps have shapes: two sizes of its cut, and their halves where memory runs short; where
// lengths differ, dozens of these.
#define PRICE_LISTS_KEPT 64

struct price_book;

// `slots`: of inputs in every block; with two, the next micro-step's can be written while a list runs. The model must
// outlive the book. NULL when the host's memory runs out.
struct price_book *price_book_create(const struct model *model, size_t slots);
void price_book_destroy(struct price_book *book);

// The list for the shape. The book owns it; it stays until the next call. NULL when the host's memory runs out.
const struct list *price_list(struct price_book *book, enum list_purpose purpose, struct model_shape shape);

// Bytes of a block for the list: the slots of inputs, and what the operations write.
uint64_t price_list_bytes(const struct price_book *book, const struct list *list);

// Those of the list for the shape. UINT64_MAX when the host's memory runs out.
uint64_t price_block_bytes(struct price_book *book, enum list_purpose purpose, struct model_shape shape);

// Bytes that it keeps in host memory. UINT64_MAX when the host's memory runs out.
uint64_t price_host_bytes(struct price_book *book, enum list_purpose purpose, struct model_shape shape);

// How many of a block's bytes the layout takes beyond its lower bound. UINT64_MAX when the host's memory runs out.
uint64_t price_slack_bytes(struct price_book *book, enum list_purpose purpose, struct model_shape shape);

// The largest micro-batch <= `most`, else shaped as `shape`, whose block fits in `bytes` and which keeps no more than
// `host_bytes` in host memory; 0 when not even one sample does. Prices none above twice of what it answers.
size_t price_largest_fit(struct price_book *book, enum list_purpose purpose, struct model_shape shape, uint64_t bytes,
                         uint64_t host_bytes, size_t most);

// How long the list for the shape takes, relative to others of the same model: its arithmetic, and the bytes that it
// moves. A guess, for what was not measured. 0 when the host's memory runs out.
double price_work(struct price_book *book, enum list_purpose purpose, struct model_shape shape);

#endif
