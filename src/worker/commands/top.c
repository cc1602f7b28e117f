// SPDX-License-Identifier: Apache-2.0
//
// headroom top: a run on the screen, while it goes on.
#include <curses.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "mem/uint64.h"
#include "worker/commands/commands.h"
#include "worker/config/config.h"
#include "worker/run/run_folder.h"
#include "worker/top/top.h"

#define TENTHS_BETWEEN 5 // seconds, of what the screen shows
#define ROWS_MAX       256
#define ONCE_COLUMNS   160
#define ONCE_ROWS      64 // or as many as all ranks take
#define KEY_ESCAPE     27

struct request {
    const char *folder;
    bool once;
};

static enum status parse(char *const *arguments, struct request *request, struct error *error)
{
    const struct command_argument takes[] = {{"RUN_DIR", .text = &request->folder},
                                             {"--once", .given = &request->once}};
    return command_parse("top", takes, sizeof(takes) / sizeof(takes[0]), arguments, error);
}

// All that has been written since.
static enum status follow(struct history *history, struct top *top, struct error *error)
{
    struct history_line line;
    enum status status = history_next(history, &line, error);
    while (status == STATUS_OK && line.kind != HISTORY_NOTHING) {
        if (!top_note(top, &line)) {
            return error_out_of_host_memory(error);
        }
        status = history_next(history, &line, error);
    }
    return status;
}

static enum status print_once(struct history *history, struct top *top, struct error *error)
{
    enum status status = follow(history, top, error);
    if (status != STATUS_OK) {
        return status;
    }
    size_t height = uint64_max(top_height(top), ONCE_ROWS), last = height;
    struct top_row *rows = calloc(height, sizeof(*rows));
    if (rows == NULL) {
        return error_out_of_host_memory(error);
    }
    top_draw(top, 0, ONCE_COLUMNS, height, rows);
    while (last > 0 && rows[last - 1].text[0] == '\0') {
        last--;
    }
    for (size_t i = 0; i < last; i++) {
        puts(rows[i].text);
    }
    free(rows);
    return STATUS_OK;
}

// Answers how many ranks are shown.
static size_t draw(const struct top *top, size_t first_rank)
{
    static struct top_row rows[ROWS_MAX];
    static const attr_t attributes[] = {[TOP_PLAIN] = A_NORMAL, [TOP_TITLE] = A_BOLD, [TOP_HEADER] = A_REVERSE};
    size_t width = (size_t)COLS < TOP_COLUMNS_MAX ? (size_t)COLS : TOP_COLUMNS_MAX;
    size_t height = (size_t)LINES < ROWS_MAX ? (size_t)LINES : ROWS_MAX;
    size_t shown = top_draw(top, first_rank, width, height, rows);
    erase();
    for (size_t i = 0; i < height; i++) {
        attrset((int)attributes[rows[i].style]);
        mvaddnstr((int)i, 0, rows[i].text, (int)width);
    }
    refresh();
    return shown;
}

// Where the next screen's ranks begin.
static size_t scroll_ranks(int key, size_t first_rank, size_t shown, size_t ranks)
{
    size_t last = ranks > shown ? ranks - shown : 0, by = key == KEY_NPAGE || key == KEY_PPAGE ? shown : 1;
    if (key == KEY_DOWN || key == KEY_NPAGE) {
        return first_rank + by < last ? first_rank + by : last;
    }
    if (key == KEY_UP || key == KEY_PPAGE) {
        return first_rank > by ? first_rank - by : 0;
    }
    return first_rank;
}

static enum status run_screen(struct history *history, struct top *top, struct error *error)
{
    size_t first_rank = 0;
    enum status status = STATUS_OK;
    for (int key = ERR; status == STATUS_OK && key != 'q' && key != KEY_ESCAPE;) {
        status = follow(history, top, error);
        if (status == STATUS_OK) {
            first_rank = first_rank < top->step.ranks.count ? first_rank : 0; // the run may go on with fewer
            size_t shown = draw(top, first_rank);
            key = getch();
            first_rank = scroll_ranks(key, first_rank, shown, top->step.ranks.count);
        }
    }
    return status;
}

static enum status show(struct history *history, struct top *top, struct error *error)
{
    SCREEN *screen = newterm(NULL, stdout, stdin);
    if (screen == NULL) {
        return error_set(error, STATUS_INVALID, "top: TERM names no terminal that it knows; --once prints it once");
    }
    cbreak();
    noecho();
    keypad(stdscr, TRUE);
    curs_set(0);
    halfdelay(TENTHS_BETWEEN);
    enum status status = run_screen(history, top, error);
    endwin();
    delscreen(screen);
    return status;
}

// Of the run; 0 where they are not known.
static uint64_t steps_of(const char *folder)
{
    char path[RUN_FOLDER_MAX + 16];
    struct config config;
    snprintf(path, sizeof(path), "%s/resolved.yaml", folder);
    if (config_read(&config, path, NULL, 0, NULL) != STATUS_OK) {
        return 0;
    }
    uint64_t steps = config.train.steps;
    config_finish(&config);
    return steps;
}

static enum status run(char *const *arguments, struct error *error)
{
    struct request request = {0};
    struct history *history;
    static struct top top;
    enum status status = parse(arguments, &request, error);
    if (status == STATUS_OK) {
        status = history_open(request.folder, &history, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
    top_init(&top, request.folder, steps_of(request.folder));
    bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    status = request.once || !terminal ? print_once(history, &top, error) : show(history, &top, error);
    top_finish(&top);
    history_close(history);
    return status;
}

int command_top(char *const *arguments)
{
    struct error error = {0};
    setlocale(LC_CTYPE, "");
    return command_finish(run(arguments, &error), &error);
}
