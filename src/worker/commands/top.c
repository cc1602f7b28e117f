// SPDX-License-Identifier: Apache-2.0
//
// headroom top: a run on the screen, while it goes on, from its folder or through its HTTP endpoint.
#include <curses.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "mem/uint64.h"
#include "worker/commands/commands.h"
#include "worker/config/config.h"
#include "worker/run/endpoint.h"
#include "worker/run/run_folder.h"
#include "worker/top/remote.h"
#include "worker/top/top.h"

#define TENTHS_BETWEEN (ENDPOINT_PERIOD_MS / 100) // seconds, of what the screen shows
#define ROWS_MAX       256
#define ONCE_COLUMNS   160
#define ONCE_ROWS      64 // or as many as all ranks take
#define KEY_ESCAPE     27

struct request {
    const char *run;
    bool once;
};

struct view {
    struct history *history; // of a folder, or
    struct remote *remote;   // of another machine
    struct top top;
};

static enum status parse(char *const *arguments, struct request *request, struct error *error)
{
    const struct command_argument takes[] = {{"RUN_DIR|HOST[:PORT]", .text = &request->run, .needed = true},
                                             {"--once", .given = &request->once}};
    return command_parse("top", takes, sizeof(takes) / sizeof(takes[0]), arguments, error);
}

static enum status next_line(struct view *view, struct history_line *line_p, struct error *error)
{
    return view->remote != NULL ? remote_next(view->remote, line_p, error) : history_next(view->history, line_p, error);
}

// Another run may answer by now.
static void note_remote(struct view *view)
{
    view->top.folder = remote_folder(view->remote);
    view->top.steps = remote_steps(view->remote);
    view->top.trouble = remote_trouble(view->remote);
}

// All that has been written since.
static enum status follow(struct view *view, struct error *error)
{
    struct history_line line;
    enum status status = next_line(view, &line, error);
    while (status == STATUS_OK && line.kind != HISTORY_NOTHING) {
        if (!top_note(&view->top, &line)) {
            return error_out_of_host_memory(error);
        }
        status = next_line(view, &line, error);
    }
    if (view->remote != NULL) {
        note_remote(view);
    }
    return status;
}

static enum status print_once(struct view *view, struct error *error)
{
    enum status status = follow(view, error);
    if (status != STATUS_OK) {
        return status;
    }
    size_t height = uint64_max(top_height(&view->top), ONCE_ROWS), last = height;
    struct top_row *rows = calloc(height, sizeof(*rows));
    if (rows == NULL) {
        return error_out_of_host_memory(error);
    }
    top_draw(&view->top, 0, ONCE_COLUMNS, height, rows);
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

static enum status run_screen(struct view *view, struct error *error)
{
    const struct record_ranks *ranks = &view->top.step.ranks;
    size_t first_rank = 0;
    enum status status = STATUS_OK;
    for (int key = ERR; status == STATUS_OK && key != 'q' && key != KEY_ESCAPE;) {
        status = follow(view, error);
        if (status == STATUS_OK) {
            first_rank = first_rank < ranks->count ? first_rank : 0; // the run may go on with fewer
            size_t shown = draw(&view->top, first_rank);
            key = getch();
            first_rank = scroll_ranks(key, first_rank, shown, ranks->count);
        }
    }
    return status;
}

static enum status show(struct view *view, struct error *error)
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
    enum status status = run_screen(view, error);
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

static enum status open_view(const char *run, struct view *view, struct error *error)
{
    if (remote_is_address(run)) {
        top_init(&view->top, run, 0);
        return remote_open(run, &view->remote, error);
    }
    top_init(&view->top, run, steps_of(run));
    return history_open(run, &view->history, error);
}

static enum status run(char *const *arguments, struct error *error)
{
    struct request request = {0};
    static struct view view;
    enum status status = parse(arguments, &request, error);
    if (status == STATUS_OK) {
        status = open_view(request.run, &view, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
    bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    status = request.once || !terminal ? print_once(&view, error) : show(&view, error);
    top_finish(&view.top);
    remote_close(view.remote);
    history_close(view.history);
    return status;
}

int command_top(char *const *arguments)
{
    struct error error = {0};
    setlocale(LC_CTYPE, "");
    return command_finish(run(arguments, &error), &error);
}
