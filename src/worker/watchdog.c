// SPDX-License-Identifier: Apache-2.0
#include "worker/watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mem/clock.h"
#include "worker/regular_file.h"
#include "worker/run/run_folder.h"

#define BEATS_A_STALL 8  // a thread writes so often in the time after which a rank has stopped
#define SILENT_BEATS  4  // a thread that has not written for so long does not run
#define JAMMED_BEATS  32 // all ranks wait, maybe for a device: that is far more than one step may take
#define ENDED_BEATS   40 // nor has the launcher ended a job of which one process ended so long ago
#define WORDS_MAX     128

// How far a rank has come.
struct place {
    uint64_t step, notes;
    const char *what;
    bool waits;
};

// What a rank's thread has seen of another one.
struct sight {
    char words[WORDS_MAX + 32]; // "BEATS waits|works|ends WORDS"
    uint64_t since;             // beats for which they have been the same
};

struct watchdog {
    struct watchdog_config config;
    uint64_t beat_ns, beats;
    uint64_t jammed_beats; // in which all ranks waited
    bool mute;             // the latest beat could not be written
    struct sight *sights;  // of each rank
    pthread_t thread;
    pthread_mutex_t mutex; // over what follows
    pthread_cond_t changed;
    struct place place;
    bool stop;
};

static const char *alive_path(const struct watchdog *watchdog, uint32_t rank, char path[RUN_FOLDER_MAX + 32])
{
    snprintf(path, RUN_FOLDER_MAX + 32, "%s/alive/rank_%" PRIu32, watchdog->config.folder, rank);
    return path;
}

static void describe(const struct watchdog *watchdog, const struct place *place, char words[WORDS_MAX])
{
    char host[32] = "?";
    const char *operation = __atomic_load_n(watchdog->config.operation_p, __ATOMIC_RELAXED);
    gethostname(host, sizeof(host) - 1);
    snprintf(words, WORDS_MAX, "%s on %s, in step %" PRIu64 ": %s, last operation %s", place->waits ? "waits" : "works",
             host, place->step, place->what, operation == NULL ? "none" : operation);
}

// Opened and closed each time, so that other machines see it, and over what was there, which takes no room on the disk.
// False with errno set.
static bool write_words(const struct watchdog *watchdog, const char *words)
{
    char path[RUN_FOLDER_MAX + 32], line[WORDS_MAX + 32];
    alive_path(watchdog, watchdog->config.rank, path);
    int length = snprintf(line, sizeof(line), "%" PRIu64 " %-*s\n", watchdog->beats, WORDS_MAX, words);
    int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (file < 0) {
        return false;
    }
    bool written = regular_file_write(file, line, (size_t)length);
    int failure = errno;
    close(file);
    errno = failure;
    return written;
}

// One that cannot tell others of itself warns once.
static void tell_others(struct watchdog *watchdog, const char *words)
{
    bool written = write_words(watchdog, words);
    if (!written && !watchdog->mute) {
        char path[RUN_FOLDER_MAX + 32];
        struct error error;
        regular_file_refuse(alive_path(watchdog, watchdog->config.rank, path), "write", &error);
        fprintf(stderr, "headroom: warning: %s; a rank that stops may go unnoticed\n", error.text);
    }
    watchdog->mute = !written;
}

static void look_at(struct watchdog *watchdog, uint32_t rank)
{
    char path[RUN_FOLDER_MAX + 32], words[WORDS_MAX + 32] = "";
    struct sight *sight = &watchdog->sights[rank];
    alive_path(watchdog, rank, path);
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        (void)!fgets(words, sizeof(words), file);
        fclose(file);
    }
    for (size_t end = strlen(words); end > 0 && strchr(" \n", words[end - 1]) != NULL; end--) {
        words[end - 1] = '\0';
    }
    bool same = strcmp(words, sight->words) == 0;
    sight->since = same ? sight->since + 1 : 0;
    memcpy(sight->words, words, sizeof(words));
}

// Ends the process, of which the others learn, so that one line is enough.
static void __attribute__((noreturn))
end_job(struct watchdog *watchdog, const char *format, uint32_t rank, const char *words)
{
    watchdog->beats++;
    (void)write_words(watchdog, "ends");
    fprintf(stderr, format, rank, words, watchdog->config.stall_seconds);
    fflush(stderr);
    _exit(STATUS_ERROR);
}

// Behind the beats.
static const char *words_of(const struct sight *sight)
{
    const char *words = strchr(sight->words, ' ');
    return words == NULL ? "before its first step" : words + 1;
}

static bool does(const struct watchdog *watchdog, uint32_t rank, const char *what)
{
    return strncmp(words_of(&watchdog->sights[rank]), what, strlen(what)) == 0;
}

static bool is_silent(const struct watchdog *watchdog, uint32_t rank)
{
    uint64_t most = does(watchdog, rank, "ends") ? ENDED_BEATS : SILENT_BEATS;
    return rank != watchdog->config.rank && watchdog->sights[rank].since >= most;
}

// Of those whose threads run, the lowest speaks.
static bool speaks(const struct watchdog *watchdog)
{
    for (uint32_t i = 0; i < watchdog->config.rank; i++) {
        if (!is_silent(watchdog, i)) {
            return false;
        }
    }
    return true;
}

static bool all_wait(const struct watchdog *watchdog)
{
    for (uint32_t i = 0; i < watchdog->config.ranks; i++) {
        if (!does(watchdog, i, "waits")) {
            return false;
        }
    }
    return true;
}

// This rank waits for others, and has for longer than it should.
static void look_around(struct watchdog *watchdog)
{
    for (uint32_t i = 0; i < watchdog->config.ranks; i++) {
        look_at(watchdog, i);
    }
    watchdog->jammed_beats = all_wait(watchdog) ? watchdog->jammed_beats + 1 : 0;
    for (uint32_t i = 0; i < watchdog->config.ranks && speaks(watchdog); i++) {
        if (is_silent(watchdog, i)) {
            end_job(watchdog,
                    "headroom: rank %" PRIu32 " has stopped, its process gives no sign of life: it %s; others wait for "
                    "%" PRIu64 " seconds (run.stall_seconds)\n",
                    i, words_of(&watchdog->sights[i]));
        }
    }
    if (watchdog->jammed_beats >= JAMMED_BEATS) {
        end_job(watchdog,
                "headroom: rank %" PRIu32 " waits, as all ranks do: it %s; nobody came further for %" PRIu64
                " seconds (run.stall_seconds)\n",
                watchdog->config.rank, words_of(&watchdog->sights[watchdog->config.rank]));
    }
}

static void forget_sights(struct watchdog *watchdog)
{
    memset(watchdog->sights, 0, watchdog->config.ranks * sizeof(*watchdog->sights));
    watchdog->jammed_beats = 0;
}

// `since_ns`: when the rank came to this place.
static void beat(struct watchdog *watchdog, const struct place *place, uint64_t since_ns)
{
    char words[WORDS_MAX];
    uint64_t limit_ns = watchdog->config.stall_seconds * UINT64_C(1000000000), now_ns = clock_ns();
    bool stalls = now_ns - since_ns >= limit_ns;
    watchdog->beats++;
    describe(watchdog, place, words);
    tell_others(watchdog, words);
    if (!stalls || (place->waits && watchdog->mute)) { // where this rank cannot write, silence says nothing of others
        forget_sights(watchdog);
    } else if (place->waits) {
        look_around(watchdog);
    } else {
        end_job(watchdog,
                "headroom: rank %" PRIu32 " has stopped: it %s; it came no further for %" PRIu64
                " seconds (run.stall_seconds)\n",
                watchdog->config.rank, words);
    }
}

static void wait_a_beat(struct watchdog *watchdog)
{
    const struct timespec until = clock_after(CLOCK_MONOTONIC, watchdog->beat_ns);
    while (!watchdog->stop && pthread_cond_timedwait(&watchdog->changed, &watchdog->mutex, &until) != ETIMEDOUT) {
    }
}

static void *watch(void *argument)
{
    struct watchdog *watchdog = argument;
    uint64_t since_ns = clock_ns(), notes = 0, beat_ns = since_ns;
    pthread_mutex_lock(&watchdog->mutex);
    while (!watchdog->stop) {
        struct place place = watchdog->place;
        pthread_mutex_unlock(&watchdog->mutex);
        bool slept = clock_ns() - beat_ns > 2 * watchdog->beat_ns; // the whole process, or the machine
        beat_ns = clock_ns();
        since_ns = place.notes != notes || slept ? beat_ns : since_ns;
        notes = place.notes;
        beat(watchdog, &place, since_ns);
        pthread_mutex_lock(&watchdog->mutex);
        wait_a_beat(watchdog);
    }
    pthread_mutex_unlock(&watchdog->mutex);
    return NULL;
}

void watchdog_note(struct watchdog *watchdog, uint64_t step, const char *what, bool waits)
{
    if (watchdog != NULL) {
        pthread_mutex_lock(&watchdog->mutex);
        watchdog->place =
            (struct place){.step = step, .notes = watchdog->place.notes + 1, .what = what, .waits = waits};
        pthread_mutex_unlock(&watchdog->mutex);
    }
}

static bool init(struct watchdog *watchdog)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&watchdog->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&watchdog->mutex, NULL);
    watchdog->beat_ns = watchdog->config.stall_seconds * (UINT64_C(1000000000) / BEATS_A_STALL);
    watchdog->place.what = "start";
    watchdog->sights = calloc(watchdog->config.ranks, sizeof(*watchdog->sights));
    return watchdog->sights != NULL && pthread_create(&watchdog->thread, NULL, watch, watchdog) == 0;
}

enum status watchdog_start(const struct watchdog_config *config, struct watchdog **watchdog_p, struct error *error)
{
    char folder[RUN_FOLDER_MAX + 8], path[RUN_FOLDER_MAX + 32];
    snprintf(folder, sizeof(folder), "%s/alive", config->folder);
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        return regular_file_refuse(folder, "make this folder", error);
    }
    struct watchdog *watchdog = calloc(1, sizeof(*watchdog));
    if (watchdog == NULL) {
        return error_out_of_host_memory(error);
    }
    watchdog->config = *config;
    if (!write_words(watchdog, "starts")) { // which takes the room that it needs
        enum status status = regular_file_refuse(alive_path(watchdog, config->rank, path), "write", error);
        free(watchdog);
        return status;
    }
    if (!init(watchdog)) {
        free(watchdog->sights);
        free(watchdog);
        return error_set(error, STATUS_ERROR, "cannot start a watchdog");
    }
    *watchdog_p = watchdog;
    return STATUS_OK;
}

void watchdog_stop(struct watchdog *watchdog)
{
    if (watchdog == NULL) {
        return;
    }
    pthread_mutex_lock(&watchdog->mutex);
    watchdog->stop = true;
    pthread_cond_broadcast(&watchdog->changed);
    pthread_mutex_unlock(&watchdog->mutex);
    pthread_join(watchdog->thread, NULL);
    pthread_cond_destroy(&watchdog->changed);
    pthread_mutex_destroy(&watchdog->mutex);
    free(watchdog->sights);
    free(watchdog);
}
