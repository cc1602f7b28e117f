// SPDX-License-Identifier: Apache-2.0
//
// What a call reports when the world says no. A function that can fail returns an `enum status`; where a person
// will read why, it also takes a `struct error` and fills in one line. Whoever first sees the failure writes the
// line; callers only pass it on, and the program's end prints it once.
#ifndef HEADROOM_MEM_ERROR_H
#define HEADROOM_MEM_ERROR_H

// The values are the program's exit codes.
enum status {
    STATUS_OK = 0,
    STATUS_ERROR = 1,         // the world failed: a file, a device, a library
    STATUS_INVALID = 2,       // the user's input is wrong: usage, config, data
    STATUS_OUT_OF_MEMORY = 3, // not enough device memory
    STATUS_DIVERGED = 4,      // the loss is no longer finite
    STATUS_STOPPED = 75,      // told to stop, and did at a checkpoint: to be started again (EX_TEMPFAIL of sysexits.h)
};

struct error {
    enum status status;
    char text[1024]; // one line, no newline at its end
};

#ifdef __cplusplus
extern "C" {
#endif

// Writes the line (cut where it is too long) and returns `status`. A NULL `error` drops the line.
enum status error_set(struct error *error, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// STATUS_ERROR, and the line that says so.
enum status error_out_of_host_memory(struct error *error);

#ifdef __cplusplus
}
#endif

#endif
