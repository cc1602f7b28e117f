// SPDX-License-Identifier: Apache-2.0
#include "mem/ledger.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX "headroom-"
#define MAGIC  UINT64_C(0x6865616472303032) // "headr002": changes with the table

struct slot {
    uint64_t held_bytes; // by the attachment
    uint64_t neighbour_bytes;
    bool claimed;
};

// A table that is all zero has just been made.
struct table {
    uint64_t magic;
    uint64_t capacity_bytes;
    struct slot slots[LEDGER_SLOTS];
};

struct ledger {
    pthread_mutex_t mutex;
    int file; // -1: without a name
    char object[LEDGER_NAME_MAX + 16];
    struct table *table;
    struct slot *mine;
};

// The first byte of a slot in the object. Its attachment keeps a lock on it, which the kernel drops with the process.
static struct flock life_lock(size_t slot)
{
    off_t offset = (off_t)(offsetof(struct table, slots) + slot * sizeof(struct slot));
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = offset, .l_len = 1};
}

// Whether another attachment has the slot. Its own lock does not show to an attachment.
static bool locked_by_another(int file, size_t slot)
{
    struct flock life = life_lock(slot);
    return file >= 0 && (fcntl(file, F_OFD_GETLK, &life) != 0 || life.l_type != F_UNLCK);
}

static void lock(struct ledger *ledger)
{
    pthread_mutex_lock(&ledger->mutex);
    if (ledger->file >= 0) {
        while (flock(ledger->file, LOCK_EX) != 0 && errno == EINTR) {
        }
    }
}

static void unlock(struct ledger *ledger)
{
    if (ledger->file >= 0) {
        flock(ledger->file, LOCK_UN);
    }
    pthread_mutex_unlock(&ledger->mutex);
}

// Clears the slots of the dead; answers how many are left. `mine` is NULL for who has no slot.
static uint32_t reap(struct table *table, int file, const struct slot *mine)
{
    uint32_t left = 0;
    for (size_t i = 0; i < LEDGER_SLOTS; i++) {
        struct slot *slot = &table->slots[i];
        if (slot->claimed && slot != mine && !locked_by_another(file, i)) {
            *slot = (struct slot){0};
        }
        left += slot->claimed;
    }
    return left;
}

static enum status claim_slot(struct ledger *ledger, struct error *error)
{
    size_t i = 0;
    while (i < LEDGER_SLOTS && ledger->table->slots[i].claimed) {
        i++;
    }
    if (i == LEDGER_SLOTS) {
        return error_set(error, STATUS_ERROR, "shared memory %s: more than %d processes share it", ledger->object,
                         LEDGER_SLOTS);
    }
    struct flock life = life_lock(i);
    if (ledger->file >= 0 && fcntl(ledger->file, F_OFD_SETLK, &life) != 0) {
        return error_set(error, STATUS_ERROR, "shared memory %s: cannot lock a part of it: %s", ledger->object,
                         strerror(errno));
    }
    ledger->mine = &ledger->table->slots[i];
    *ledger->mine = (struct slot){.claimed = true};
    return STATUS_OK;
}

static uint64_t taken(const struct table *table)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < LEDGER_SLOTS; i++) {
        bytes += table->slots[i].held_bytes + table->slots[i].neighbour_bytes;
    }
    return bytes;
}

static struct table *map_table(int file)
{
    int flags = file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *memory = mmap(NULL, sizeof(struct table), PROT_READ | PROT_WRITE, flags, file, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static bool is_ours(const struct table *table)
{
    return table->magic == MAGIC || table->magic == 0;
}

// Nobody lives in the locked object. An empty one was left before it had a table; what else is no table is another
// program's.
static bool is_dead(int file)
{
    struct stat status;
    if (fstat(file, &status) != 0 || status.st_nlink == 0) {
        return false;
    }
    if (status.st_size != (off_t)sizeof(struct table)) {
        return status.st_size == 0;
    }
    struct table *table = map_table(file);
    if (table == NULL) {
        return false;
    }
    bool dead = is_ours(table) && reap(table, file, NULL) == 0;
    munmap(table, sizeof(*table));
    return dead;
}

// Removes an object in which nobody lives. Skips what somebody has locked: then somebody lives.
static void remove_if_dead(const char *object)
{
    int file = shm_open(object, O_RDWR | O_CLOEXEC, 0);
    if (file < 0) {
        return;
    }
    if (flock(file, LOCK_EX | LOCK_NB) == 0 && is_dead(file)) {
        shm_unlink(object);
    }
    close(file);
}

static void remove_dead(void)
{
    DIR *folder = opendir("/dev/shm");
    if (folder == NULL) {
        return;
    }
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) == 0) {
            char object[300];
            snprintf(object, sizeof(object), "/%s", entry->d_name);
            remove_if_dead(object);
        }
    }
    closedir(folder);
}

// Opens and locks the object, and makes sure that it has not been removed in between.
static int open_locked(const char *object)
{
    for (;;) {
        struct stat status;
        int file = shm_open(object, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (file < 0) {
            return -1;
        }
        while (flock(file, LOCK_EX) != 0 && errno == EINTR) {
        }
        if (fstat(file, &status) == 0 && status.st_nlink > 0) {
            return file;
        }
        close(file);
    }
}

bool ledger_valid_name(const char *name, size_t most)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t length = strlen(name);
    return length >= 1 && length <= most && strspn(name, allowed) == length;
}

static enum status refuse_object(const struct ledger *ledger, struct error *error)
{
    return error_set(error, STATUS_ERROR,
                     "shared memory %s: is another program's, or another version's; choose another device.name or "
                     "remove /dev/shm%s",
                     ledger->object, ledger->object);
}

// Leaves the object locked. Its memory is claimed here: a full /dev/shm must answer now, not fault at the first write.
static enum status open_object(struct ledger *ledger, const char *name, struct error *error)
{
    remove_dead();
    snprintf(ledger->object, sizeof(ledger->object), "/" PREFIX "%s", name);
    ledger->file = open_locked(ledger->object);
    struct stat status;
    if (ledger->file >= 0 && fstat(ledger->file, &status) == 0 && status.st_size != 0 &&
        status.st_size != (off_t)sizeof(struct table)) {
        return refuse_object(ledger, error);
    }
    int code = ledger->file < 0 ? errno : posix_fallocate(ledger->file, 0, sizeof(struct table));
    if (code != 0) {
        return error_set(error, STATUS_ERROR, "shared memory %s: cannot open it: %s", ledger->object, strerror(code));
    }
    return STATUS_OK;
}

enum status ledger_attach(const char *name, uint64_t capacity_bytes, struct ledger **ledger_p, struct error *error)
{
    if (name != NULL && !ledger_valid_name(name, LEDGER_NAME_MAX)) {
        return error_set(error, STATUS_INVALID,
                         "device name '%s': allowed are 1 to %d letters, digits, dots, underscores and dashes", name,
                         LEDGER_NAME_MAX);
    }
    struct ledger *ledger = calloc(1, sizeof(*ledger));
    if (ledger == NULL) {
        return error_out_of_host_memory(error);
    }
    ledger->file = -1;
    enum status status = name == NULL ? STATUS_OK : open_object(ledger, name, error);
    if (status != STATUS_OK) {
        goto err_close;
    }
    ledger->table = map_table(ledger->file);
    if (ledger->table == NULL) {
        status = error_set(error, STATUS_ERROR, "cannot map a device's ledger: %s", strerror(errno));
        goto err_close;
    }
    if (!is_ours(ledger->table)) {
        status = refuse_object(ledger, error);
        goto err_unmap;
    }
    if (reap(ledger->table, ledger->file, NULL) == 0) {
        ledger->table->magic = MAGIC;
        ledger->table->capacity_bytes = capacity_bytes;
    }
    status = claim_slot(ledger, error);
    if (status != STATUS_OK) {
        goto err_unmap;
    }
    if (ledger->file >= 0) {
        flock(ledger->file, LOCK_UN);
    }
    pthread_mutex_init(&ledger->mutex, NULL);
    *ledger_p = ledger;
    return STATUS_OK;

err_unmap:
    munmap(ledger->table, sizeof(*ledger->table));
err_close:
    if (ledger->file >= 0) {
        close(ledger->file);
    }
    free(ledger);
    return status;
}

// With the lock. A forgotten name may be another object's by now.
static void remove_object(struct ledger *ledger)
{
    struct stat status;
    if (ledger->file >= 0 && fstat(ledger->file, &status) == 0 && status.st_nlink > 0) {
        shm_unlink(ledger->object);
    }
}

void ledger_forget_name(struct ledger *ledger)
{
    lock(ledger);
    remove_object(ledger);
    unlock(ledger);
}

void ledger_detach(struct ledger *ledger)
{
    if (ledger == NULL) {
        return;
    }
    lock(ledger);
    *ledger->mine = (struct slot){0};
    if (reap(ledger->table, ledger->file, NULL) == 0) {
        remove_object(ledger);
    }
    munmap(ledger->table, sizeof(*ledger->table));
    if (ledger->file >= 0) {
        close(ledger->file); // drops the lock on the slot together with that on the object
    }
    pthread_mutex_unlock(&ledger->mutex);
    pthread_mutex_destroy(&ledger->mutex);
    free(ledger);
}

bool ledger_take(struct ledger *ledger, uint64_t bytes)
{
    lock(ledger);
    reap(ledger->table, ledger->file, ledger->mine);
    uint64_t used = taken(ledger->table), capacity = ledger->table->capacity_bytes;
    bool fits = used <= capacity && bytes <= capacity - used;
    if (fits) {
        ledger->mine->held_bytes += bytes;
    }
    unlock(ledger);
    return fits;
}

void ledger_give(struct ledger *ledger, uint64_t bytes)
{
    lock(ledger);
    assert(ledger->mine->held_bytes >= bytes);
    ledger->mine->held_bytes -= bytes;
    unlock(ledger);
}

void ledger_set_neighbour(struct ledger *ledger, uint64_t bytes)
{
    lock(ledger);
    ledger->mine->neighbour_bytes = bytes;
    unlock(ledger);
}

void ledger_info(struct ledger *ledger, struct device_info *info_p)
{
    lock(ledger);
    uint32_t sharers = reap(ledger->table, ledger->file, ledger->mine);
    uint64_t used = taken(ledger->table), capacity = ledger->table->capacity_bytes;
    *info_p = (struct device_info){
        .capacity_bytes = capacity,
        .free_bytes = used < capacity ? capacity - used : 0,
        .held_bytes = ledger->mine->held_bytes,
        .others_bytes = used - ledger->mine->held_bytes,
        .sharers = sharers,
    };
    unlock(ledger);
}
