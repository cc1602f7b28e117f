// SPDX-License-Identifier: Apache-2.0
//
// What people write in configurations, and what they read when it is wrong.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mem/device.h"
#include "worker/config/config.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

// The shortest configuration that is complete.
static const char minimal[] = "model: {kind: mlp, layers: [4, 2]}\n"
                              "train: {steps: 1, global_batch_size: 8}\n"
                              "data: {kind: synthetic, samples: 100}\n";

// The same with more lines at the end, from line 4 on.
static char *with_lines(const char *lines)
{
    char *text;
    assert_true(asprintf(&text, "%s%s", minimal, lines) > 0);
    return text;
}

static void assert_one_line(const struct error *error, enum status status)
{
    assert_int_equal(error->status, status);
    assert_true(error->text[0] != '\0');
    assert_null(strchr(error->text, '\n'));
}

// `text` is refused with exactly this message.
static void expect_refused(const char *text, const char *message)
{
    struct config config;
    struct error error = {0};
    assert_int_equal(config_parse(&config, text, "run.yaml", NULL, 0, &error), STATUS_INVALID);
    assert_string_equal(error.text, message);
    assert_one_line(&error, STATUS_INVALID);
}

static void expect_lines_refused(const char *lines, const char *message)
{
    char *text = with_lines(lines);
    expect_refused(text, message);
    free(text);
}

static struct config parse_with(const char *override)
{
    struct config config;
    struct error error = {0};
    char *overrides[] = {(char *) override};
    if (config_parse(&config, minimal, "run.yaml", overrides, 1, &error) != STATUS_OK) {
        fail_msg("%s", error.text);
    }
    return config;
}

static void expect_override_refused(const char *override, const char *message)
{
    struct config config;
    struct error error = {0};
    char *overrides[] = {(char *) override};
    assert_int_equal(config_parse(&config, minimal, "run.yaml", overrides, 1, &error), STATUS_INVALID);
    assert_string_equal(error.text, message);
}

static void expect_invalid_override(const char *override)
{
    struct config config;
    struct error error = {0};
    char *overrides[] = {(char *) override};
    if (config_parse(&config, minimal, "run.yaml", overrides, 1, &error) != STATUS_INVALID) {
        fail_msg("accepted: %s", override);
    }
    assert_one_line(&error, STATUS_INVALID);
}

static void assert_same_text(const char *a, const char *b)
{
    assert_int_equal(a == NULL, b == NULL);
    if (a != NULL) {
        assert_string_equal(a, b);
    }
}

// The owned texts are compared and taken over, then every byte.
static void assert_same(const struct config *a, const struct config *b)
{
    struct config copy = *b;
    assert_same_text(a->data.images, b->data.images);
    assert_same_text(a->data.labels, b->data.labels);
    assert_same_text(a->data.validation_images, b->data.validation_images);
    assert_same_text(a->data.validation_labels, b->data.validation_labels);
    assert_same_text(a->data.path, b->data.path);
    assert_same_text(a->data.validation_path, b->data.validation_path);
    assert_same_text(a->device.name, b->device.name);
    assert_same_text(a->run.folder, b->run.folder);
    assert_same_text(a->checkpoint.resume, b->checkpoint.resume);
    assert_same_text(a->checkpoint.weights, b->checkpoint.weights);
    assert_same_text(a->metrics.prometheus_file, b->metrics.prometheus_file);
    assert_same_text(a->metrics.http_address, b->metrics.http_address);
    copy.data.images = a->data.images;
    copy.data.labels = a->data.labels;
    copy.data.validation_images = a->data.validation_images;
    copy.data.validation_labels = a->data.validation_labels;
    copy.data.path = a->data.path;
    copy.data.validation_path = a->data.validation_path;
    copy.device.name = a->device.name;
    copy.run.folder = a->run.folder;
    copy.checkpoint.resume = a->checkpoint.resume;
    copy.checkpoint.weights = a->checkpoint.weights;
    copy.metrics.prometheus_file = a->metrics.prometheus_file;
    copy.metrics.http_address = a->metrics.http_address;
    copy.name = a->name; // and places are those of another text
    memcpy(copy.places, a->places, sizeof(copy.places));
    assert_memory_equal(a, &copy, sizeof(copy));
}

// Prints, reads again, compares structs and prints.
static void assert_round_trip(const struct config *config)
{
    struct config again;
    struct error error = {0};
    char *printed = config_print(config);
    assert_non_null(printed);
    if (config_parse(&again, printed, "other.yaml", NULL, 0, &error) != STATUS_OK) {
        fail_msg("%s\n%s", error.text, printed);
    }
    assert_same(config, &again);
    char *printed_again = config_print(&again);
    assert_string_equal(printed, printed_again);
    free(printed_again);
    free(printed);
    config_finish(&again);
}

static void defaults_fill_what_the_file_leaves_out(void **state)
{
    (void)state;
    struct config config;
    assert_int_equal(config_parse(&config, minimal, "configs/run.yaml", NULL, 0, NULL), STATUS_OK);
    assert_int_equal(config.model.layers_count, 2);
    assert_int_equal(config.model.activation, CONFIG_RELU);
    assert_int_equal(config.model.vocab_size, 0);
    assert_int_equal(config.train.epochs, 0);
    assert_int_equal(config.train.micro_batch_size, 0);
    assert_int_equal(config.train.precision, CONFIG_FP32);
    assert_int_equal(config.train.recompute, CONFIG_RECOMPUTE_AUTO);
    assert_int_equal(config.train.seed, 1);
    assert_int_equal(config.optimizer.kind, CONFIG_SGD);
    assert_true(config.optimizer.beta2 == 0.999);
    assert_true(config.optimizer.epsilon == 1e-8);
    assert_true(config.data.shuffle);
    assert_true(config.data.pack);
    assert_int_equal(config.data.end_of_text, CONFIG_END_OF_TEXT);
    assert_null(config.data.path);
    assert_int_equal(config.data.prefetch_bytes, 64 << 20);
    assert_int_equal(config.device.kind, CONFIG_DEVICE_AUTO);
    assert_int_equal(config.device.capacities_count, 0);
    assert_int_equal(config.device.neighbours_count, 0);
    assert_int_equal(config.comm.kind, CONFIG_COMM_AUTO);
    assert_int_equal(config.comm.reduce, CONFIG_REDUCE_AUTO);
    assert_int_equal(config.comm.bucket_bytes, 32 << 20);
    assert_int_equal(config.run.log_every, 10);
    assert_true(config.fault.rank == CONFIG_ALL_RANKS);
    assert_int_equal(config.fault.fail_allocation_first[0], 0);
    assert_int_equal(config.fault.memory, CONFIG_MEMORY_DEVICE);
    config_finish(&config);
}

static void run_folder_is_named_after_the_file(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"configs/quick.yaml", "runs/quick"},
                                           {"quick", "runs/quick"},
                                           {"a.b/v1.2.yaml", "runs/v1.2"},
                                           {"x/.yaml", "runs/.yaml"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct config config;
        assert_int_equal(config_parse(&config, minimal, cases[i][0], NULL, 0, NULL), STATUS_OK);
        assert_string_equal(config.run.folder, cases[i][1]);
        config_finish(&config);
    }
}

static void counts_are_whole_and_in_range(void **state)
{
    (void)state;
    struct config config = parse_with("train.seed=18446744073709551615");
    assert_true(config.train.seed == UINT64_MAX);
    config_finish(&config);
    config = parse_with("train.micro_batch_size=auto");
    assert_int_equal(config.train.micro_batch_size, 0);
    config_finish(&config);
    config = parse_with("train.micro_batch_size=4294967295");
    assert_true(config.train.micro_batch_size == UINT32_MAX);
    config_finish(&config);
    config = parse_with("fault.rank=3");
    assert_int_equal(config.fault.rank, 3);
    config_finish(&config);

    expect_override_refused("train.global_batch_size=abc", "command line: train.global_batch_size=abc: 'abc' is not a "
                                                           "whole number; allowed: 1 to 4294967295");
    expect_override_refused("train.global_batch_size=0", "command line: train.global_batch_size=0: '0' is out of "
                                                         "range; allowed: 1 to 4294967295");
    expect_override_refused("train.micro_batch_size=0", "command line: train.micro_batch_size=0: '0' is out of range; "
                                                        "allowed: 1 to 4294967295 or auto");
    static const char *const bad[] = {"2.7", "-1", "1e3", "0x10", "4294967296", "99999999999999999999",
                                      "5 5", "+5", "''",  "auto"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        char override[64];
        snprintf(override, sizeof(override), "train.global_batch_size=%s", bad[i]);
        expect_invalid_override(override);
    }
    expect_invalid_override("train.seed=18446744073709551616");
}

static void bytes_are_exact(void **state)
{
    (void)state;
    struct config config;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"1", 1},
                {"4096", 4096},
                {"3KiB", 3 << 10},
                {"64MiB", 64 << 20},
                {"1.5GiB", UINT64_C(3) << 29},
                {"0.5KiB", 512},
                {"1TiB", UINT64_C(1) << 40},
                {"7KB", 7000},
                {"1.25MB", 1250000},
                {"2GB", 2000000000},
                {"1024TiB", UINT64_C(1) << 50}};
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        char override[64];
        snprintf(override, sizeof(override), "data.prefetch_bytes=%s", good[i].text);
        config = parse_with(override);
        assert_int_equal(config.data.prefetch_bytes, good[i].bytes);
        assert_round_trip(&config);
        config_finish(&config);
    }
    expect_override_refused("data.prefetch_bytes=2.7",
                            "command line: data.prefetch_bytes=2.7: '2.7' is not a whole number of bytes; allowed: 1 "
                            "to 1024TiB");
    expect_override_refused("data.prefetch_bytes=64Mib",
                            "command line: data.prefetch_bytes=64Mib: '64Mib' is not a number of bytes such as 4096, "
                            "64MiB or 1.5GB; allowed: 1 to 1024TiB");
    config = parse_with("comm.bucket_bytes=4");
    assert_int_equal(config.comm.bucket_bytes, 4);
    config_finish(&config);
    expect_override_refused("comm.bucket_bytes=3",
                            "command line: comm.bucket_bytes=3: '3' is out of range; allowed: 4 to 1024TiB");
    static const char *const bad[] = {"0",
                                      "1025TiB",
                                      "340282366920938463463374607431768215552",
                                      "18446744073709551616",
                                      "99999999999999999999TiB",
                                      "-1KiB",
                                      "1.KiB",
                                      ".5KiB",
                                      "1.2.3MB",
                                      "KiB",
                                      "64 MiB",
                                      "1e3",
                                      "0.1KiB"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        char override[64];
        snprintf(override, sizeof(override), "data.prefetch_bytes=%s", bad[i]);
        expect_invalid_override(override);
    }
}

static void reals_are_finite_decimal_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double real;
    } good[] = {{"3e-4", 3e-4},
                {"0.1", 0.1},
                {"1", 1},
                {"0", 0},
                {"1E5", 1e5},
                {".5", 0.5},
                {"0.30000000000000004", 0.1 + 0.2}};
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        char override[64];
        snprintf(override, sizeof(override), "optimizer.learning_rate=%s", good[i].text);
        struct config config = parse_with(override);
        assert_true(config.optimizer.learning_rate == good[i].real);
        assert_round_trip(&config);
        config_finish(&config);
    }
    expect_override_refused("optimizer.learning_rate=3e-4x", "command line: optimizer.learning_rate=3e-4x: '3e-4x' is "
                                                             "not a number; allowed: 0 to 1e6");
    expect_override_refused("optimizer.beta1=1",
                            "command line: optimizer.beta1=1: '1' is out of range; allowed: 0 to 0.999999");
    static const char *const bad[] = {"-0.1", "nan", "inf", "0x1p3", "1e400", "1 2", "1,5", "''", "e", "--1"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        char override[64];
        snprintf(override, sizeof(override), "optimizer.learning_rate=%s", bad[i]);
        expect_invalid_override(override);
    }
}

static void names_and_booleans_are_exact(void **state)
{
    (void)state;
    struct config config = parse_with("optimizer.schedule=linear");
    assert_int_equal(config.optimizer.schedule, CONFIG_LINEAR);
    config_finish(&config);
    config = parse_with("data.shuffle=false");
    assert_false(config.data.shuffle);
    config_finish(&config);
    config = parse_with("model.activation=gelu");
    assert_int_equal(config.model.activation, CONFIG_GELU);
    config_finish(&config);
    config = parse_with("train.recompute=full");
    assert_int_equal(config.train.recompute, CONFIG_RECOMPUTE_FULL);
    config_finish(&config);
    config = parse_with("train.precision=bf16");
    assert_int_equal(config.train.precision, CONFIG_BF16);
    assert_round_trip(&config);
    config_finish(&config);

    expect_override_refused("optimizer.kind=adam", "command line: optimizer.kind=adam: 'adam' is not one of the "
                                                   "names; allowed: sgd, adamw");
    expect_override_refused("data.shuffle=yes", "command line: data.shuffle=yes: 'yes' is neither true nor false; "
                                                "allowed: true, false");
    expect_override_refused("train.precision=fp16", "command line: train.precision=fp16: 'fp16' is not one of the "
                                                    "names; allowed: fp32, bf16");
    expect_invalid_override("data.shuffle=True");
    expect_invalid_override("optimizer.schedule=Cosine");
}

static void texts_survive_yaml(void **state)
{
    (void)state;
    static const struct {
        const char *override, *text;
    } cases[] = {
        {"data.path=a/b-c.d_e", "a/b-c.d_e"},
        {"data.path=data/tokens/*.bin", "data/tokens/*.bin"},
        {"data.path='it''s: a # mess'", "it's: a # mess"},
        {"data.path=\"line\\nbreak \\\" \\\\ \\t\\x7f\"", "line\nbreak \" \\ \t\x7f"},
        {"data.path=\" edges \"", " edges "},
        {"data.path=h\xc3\xa9llo", "h\xc3\xa9llo"},
        {"data.path=\"\\N \\L \\P \\u00a0 \\ufeff\"", "\xc2\x85 \xe2\x80\xa8 \xe2\x80\xa9 \xc2\xa0 \xef\xbb\xbf"},
        {"data.path=true", "true"},
        {"data.path=12", "12"},
        {"data.path=~", "~"},
        {"data.path='null'", "null"},
        {"data.path='-'", "-"},
        {"data.path='---'", "---"},
        {"data.path=null", NULL}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct config config = parse_with(cases[i].override);
        assert_same_text(config.data.path, cases[i].text);
        assert_round_trip(&config);
        config_finish(&config);
    }
    expect_override_refused("data.path=''", "command line: data.path='': '' is empty; allowed: text or null");
    expect_override_refused("data.path=\"a\\0b\"", "command line: data.path=\"a\\0b\": a text with a zero byte stands "
                                                   "where one value is expected; allowed: text or null");
}

static void lists_take_one_or_many(void **state)
{
    (void)state;
    struct config config = parse_with("device.capacity=[64MiB, 96MiB]");
    assert_int_equal(config.device.capacities_count, 2);
    assert_int_equal(config.device.capacities[0], 64 << 20);
    assert_int_equal(config.device.capacities[1], 96 << 20);
    config_finish(&config);
    config = parse_with("device.capacity=1GiB");
    assert_int_equal(config.device.capacities_count, 1);
    assert_int_equal(config.device.capacities[0], 1 << 30);
    config_finish(&config);
    config = parse_with("device.capacity=[]");
    assert_int_equal(config.device.capacities_count, 0);
    config_finish(&config);

    expect_override_refused("device.capacity=[64MiB, x]",
                            "command line: device.capacity=[64MiB, x]: 'x' is not a number of bytes such as 4096, "
                            "64MiB or 1.5GB; allowed: 4KiB to 1024TiB, one or up to 64 as [a, b]");
    expect_override_refused("device.capacity=[64MiB, [1]]",
                            "command line: device.capacity=[64MiB, [1]]: a list stands where one value is expected; "
                            "allowed: 4KiB to 1024TiB, one or up to 64 as [a, b]");
    expect_override_refused("train.steps=[1, 2]", "command line: train.steps=[1, 2]: a list stands where one value is "
                                                  "expected; allowed: 0 to 4294967295");
}

static void lists_end_where_the_struct_ends(void **state)
{
    (void)state;
    char override[512] = "model.layers=[1";
    for (int i = 1; i < CONFIG_LIST_MAX; i++) {
        strcat(override, ",1");
    }
    char *end = override + strlen(override);
    strcpy(end, "]");
    struct config config = parse_with(override);
    assert_int_equal(config.model.layers_count, CONFIG_LIST_MAX);
    config_finish(&config);
    strcpy(end, ",1]");
    expect_invalid_override(override);
}

static void neighbours_name_all_they_need(void **state)
{
    (void)state;
    struct config config = parse_with("device.neighbours=[{rank: 3, bytes: 6MiB, from_step: 100, to_step: 200}, "
                                      "{to_step: 2, from_step: 1, bytes: 0, rank: 0}]");
    assert_int_equal(config.device.neighbours_count, 2);
    assert_int_equal(config.device.neighbours[0].rank, 3);
    assert_int_equal(config.device.neighbours[0].bytes, 6 << 20);
    assert_int_equal(config.device.neighbours[0].from_step, 100);
    assert_int_equal(config.device.neighbours[0].to_step, 200);
    assert_int_equal(config.device.neighbours[1].to_step, 2);
    char *printed = config_print(&config);
    assert_non_null(strstr(printed, "{rank: 0, bytes: 0, from_step: 1, to_step: 2}]"));
    free(printed);
    assert_round_trip(&config);
    config_finish(&config);

    expect_lines_refused("device:\n"
                         "  neighbours:\n"
                         "    - {rank: 0, bytes: 1MiB, from_step: 1}\n",
                         "run.yaml:5:3: device.neighbours.to_step: to_step is missing; allowed: 0 to 4294967295");
    expect_lines_refused("device:\n"
                         "  neighbours:\n"
                         "    - {rank: 0, bytes: lots, from_step: 1, to_step: 2}\n",
                         "run.yaml:6:24: device.neighbours.bytes: 'lots' is not a number of bytes such as 4096, 64MiB "
                         "or 1.5GB; allowed: 0 to 1024TiB");
    expect_lines_refused("device:\n"
                         "  neighbours:\n"
                         "    - {rank: 0, bites: 1MiB, from_step: 1, to_step: 2}\n",
                         "run.yaml:6:17: device.neighbours: there is no key 'bites'; did you mean 'bytes'? allowed: "
                         "rank, bytes, from_step, to_step");
    expect_lines_refused("device:\n"
                         "  neighbours: [{rank: 0, bytes: 1MiB, from_step: 2, to_step: 2}]\n",
                         "run.yaml:5:3: device.neighbours: entry 1: to_step 2 must be more than from_step 2");
    expect_invalid_override("device.neighbours=[5]");
    expect_override_refused("device.name=a/b", "command line: device.name=a/b: 'a/b' is not 1 to 64 letters, digits, "
                                               "dots, underscores and dashes");
    expect_override_refused("device.neighbours=5",
                            "command line: device.neighbours=5: one value stands where a mapping is expected; allowed: "
                            "{rank: 0 to 1048575, bytes: 0 to 1024TiB, from_step: 0 to 4294967295, to_step: 0 to "
                            "4294967295}, one or up to 16 as [a, b]");
}

static void mistakes_name_their_place(void **state)
{
    (void)state;
    expect_refused("train:\n  global_batch_size: abc\n", "run.yaml:2:22: train.global_batch_size: 'abc' is not a whole "
                                                         "number; allowed: 1 to 4294967295");
    expect_refused("train:\n  steps:\n", "run.yaml:2:3: train.steps: nothing stands where one value is expected; "
                                         "allowed: 0 to 4294967295");
    expect_refused("train:\n  steps: {a: b}\n", "run.yaml:2:3: train.steps: a mapping stands where one value is "
                                                "expected; allowed: 0 to 4294967295");
    expect_refused("train:\n  seed: &s 5\n  steps: *s\n",
                   "run.yaml:3:11: train.steps: an alias stands where one value is expected; allowed: 0 to 4294967295");
    expect_refused("train: 5\n", "run.yaml:1:1: train: a section is a mapping of keys to values");
    expect_refused("- train\n", "run.yaml: a configuration is a mapping of sections");
    expect_refused(
        "train:\n  ? [1]\n  : 2\n",
        "run.yaml:1:1: train: there is no key '?'; allowed: steps, epochs, global_batch_size, micro_batch_size, "
        "precision, recompute, offload_bytes, shard_optimizer, reproducible, grain_size, seed, clip_norm, eval_every");
}

static void values_are_quoted_on_one_line(void **state)
{
    (void)state;
    expect_refused("train:\n  steps: |\n    two\n    lines\n",
                   "run.yaml:3:1: train.steps: 'two lines ' is not a whole number; allowed: 0 to 4294967295");
    expect_override_refused("train.steps=\"a\nb\"", "command line: train.steps=\"a b\": 'a b' is not a whole number; "
                                                    "allowed: 0 to 4294967295");
}

static void long_input_leaves_room_for_the_complaint(void **state)
{
    (void)state;
    char override[4096] = "train.steps=";
    memset(override + strlen(override), 'x', sizeof(override) - 100);
    struct config config;
    struct error error = {0};
    char *overrides[] = {override};
    assert_int_equal(config_parse(&config, minimal, "run.yaml", overrides, 1, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "is not a whole number; allowed: 0 to 4294967295"));

    char text[512], cut[81];
    memset(cut, 'k', 80);
    cut[80] = '\0';
    snprintf(text, sizeof(text), "%s%s: 1\n%s%s: 2\n", cut, cut, cut, cut);
    char message[512];
    snprintf(message, sizeof(message), "run.yaml:2:1: duplicate key '%s'", cut);
    expect_refused(text, message);
}

static void unknown_names_get_a_suggestion(void **state)
{
    (void)state;
    expect_refused(
        "train:\n  global_batchsize: 5\n",
        "run.yaml:2:3: train: there is no key 'global_batchsize'; did you mean 'global_batch_size'? allowed: "
        "steps, epochs, global_batch_size, micro_batch_size, precision, recompute, offload_bytes, shard_optimizer, "
        "reproducible, grain_size, seed, clip_norm, eval_every");
    expect_refused("run:\n  zebra: 5\n", "run.yaml:2:3: run: there is no key 'zebra'; allowed: folder, log_every, "
                                         "log_seconds, memory_trace, snapshot_step, stall_seconds, log_micro_steps");
    expect_refused("trian:\n  steps: 5\n",
                   "run.yaml:1:1: there is no section 'trian'; did you mean 'train'? allowed: "
                   "model, train, optimizer, data, device, comm, run, checkpoint, metrics, fault");
    expect_override_refused(
        "comm.knd=mpi",
        "command line: comm.knd=mpi: there is no key 'knd'; did you mean 'kind'? allowed: kind, reduce, "
        "bucket_bytes");
    expect_override_refused("nonsense.steps=1",
                            "command line: nonsense.steps=1: there is no section 'nonsense'; "
                            "allowed: model, train, optimizer, data, device, comm, run, checkpoint, metrics, fault");
}

static void yaml_errors_are_one_line(void **state)
{
    (void)state;
    expect_refused("train:\n  steps: 1\n  steps: 2\n", "run.yaml:3:3: duplicate key 'steps'");
    expect_refused("train:\n  steps: 1\nrun:\ntrain:\n  epochs: 2\n", "run.yaml:4:1: duplicate key 'train'");
    expect_refused("train: [1\n", "run.yaml:2:1: flow sequence without a closing bracket");
    expect_refused("train:\n\tsteps: 1\n", "run.yaml:2:1: tab character may not be used as indentation");
    expect_refused("run:\n---\nrun:\n", "run.yaml: more than one YAML document");
    expect_override_refused("device.capacity=[64MiB",
                            "command line: device.capacity=[64MiB: flow sequence without a closing bracket");
}

static void only_utf8_is_text(void **state)
{
    (void)state;
    expect_refused("run:\n% \xe1:\n", "run.yaml:2:3: byte 0xe1 is not UTF-8");
    expect_refused("run: # caf\xc3\xa9 \x80\n", "run.yaml:1:13: byte 0x80 is not UTF-8");
    expect_override_refused("data.path=\"\xff\"", "command line: data.path=\"\xff\": byte 0xff is not UTF-8");
    static const char *const bad[] = {"\xc0\xaf",     "\xe0\x80\xaf",     "\xf0\x80\x80\xaf",
                                      "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
                                      "\xc3",         "\xe2\x80"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        char override[64];
        snprintf(override, sizeof(override), "data.path=%s", bad[i]);
        struct config config;
        struct error error = {0};
        char *overrides[] = {override};
        assert_int_equal(config_parse(&config, minimal, "run.yaml", overrides, 1, &error), STATUS_INVALID);
        assert_non_null(strstr(error.text, "is not UTF-8"));
    }
    struct config config = parse_with("data.path=\xf0\x9f\x98\x80\xed\x9f\xbf\xee\x80\x80");
    assert_string_equal(config.data.path, "\xf0\x9f\x98\x80\xed\x9f\xbf\xee\x80\x80");
    assert_round_trip(&config);
    config_finish(&config);
}

static void overrides_have_a_form(void **state)
{
    (void)state;
    expect_override_refused("train.steps", "command line: train.steps: an override is written section.key=value");
    expect_override_refused("steps=5", "command line: steps=5: an override is written section.key=value");
    expect_override_refused("=5", "command line: =5: an override is written section.key=value");
    expect_override_refused("", "command line: : an override is written section.key=value");
    expect_override_refused("train.steps=", "command line: train.steps=: nothing stands where one value is expected; "
                                            "allowed: 0 to 4294967295");
    expect_invalid_override("train.=5");
    expect_invalid_override(".steps=5");
    expect_invalid_override("device.neighbours.rank=5");
}

static void overrides_beat_the_file_and_the_last_one_wins(void **state)
{
    (void)state;
    char *overrides[] = {"train.steps=7",     "run.folder=first",       "train.steps=9",
                         "run.folder=second", "model.layers=[8, 6, 2]", "model.layers=[3, 2]"};
    struct config config;
    assert_int_equal(config_parse(&config, minimal, "run.yaml", overrides, COUNT_OF(overrides), NULL), STATUS_OK);
    assert_int_equal(config.train.steps, 9);
    assert_int_equal(config.train.global_batch_size, 8);
    assert_string_equal(config.run.folder, "second");
    assert_int_equal(config.model.layers_count, 2);
    assert_int_equal(config.model.layers[0], 3);
    assert_round_trip(&config); // nothing of the longer list is left
    config_finish(&config);
}

static void required_keys_are_required(void **state)
{
    (void)state;
    expect_refused("", "run.yaml: model.kind: the key is missing; allowed: mlp, gpt");
    expect_refused("---\n", "run.yaml: model.kind: the key is missing; allowed: mlp, gpt");
    expect_refused("# only a remark\n", "run.yaml: model.kind: the key is missing; allowed: mlp, gpt");
    expect_refused("model: {kind: mlp, layers: [2, 2]}\ntrain: # nothing\n",
                   "run.yaml: train.global_batch_size: the key is missing; allowed: 1 to 4294967295");
    expect_refused("model: {kind: mlp, layers: [2, 2]}\ntrain: {global_batch_size: 1, steps: 1}\n",
                   "run.yaml: data.kind: the key is missing; allowed: idx, npy, text, tokens, synthetic");
}

static void keys_must_fit_together(void **state)
{
    (void)state;
    expect_override_refused("train.steps=0", "command line: train.steps=0: one of train.steps and train.epochs must be "
                                             "more than 0");
    expect_override_refused("model.layers=[5]",
                            "command line: model.layers=[5]: model.kind mlp needs at least 2 sizes");
    expect_override_refused("model.kind=gpt", "run.yaml: model.vocab_size: model.kind gpt needs it");
    expect_override_refused("data.kind=idx", "run.yaml: data.images: data.kind idx and npy need it");
    expect_override_refused("data.kind=text", "command line: data.kind=text: text needs model.kind gpt");
    expect_override_refused("data.kind=tokens", "command line: data.kind=tokens: tokens needs model.kind gpt");
    expect_override_refused("data.samples=null", "command line: data.samples=null: data.kind synthetic needs it");
    expect_refused("model: {kind: mlp, layers: [4, 2]}\n"
                   "train: {steps: 1, global_batch_size: 8}\n"
                   "data: {kind: idx, images: a}\n",
                   "run.yaml: data.labels: data.kind idx and npy need it");
    expect_refused("model: {kind: mlp, layers: [4, 2]}\n"
                   "train: {steps: 1, global_batch_size: 8}\n"
                   "data: {kind: idx, images: a, labels: b, validation_images: c}\n",
                   "run.yaml:3:41: data.validation_images: needs data.validation_labels, and the other way round");
}

// What only the CPU device has, and what only a GPU has.
static void keys_must_fit_the_device(void **state)
{
    (void)state;
    static const char *const cpu[][2] = {
        {"device.name", "shared"},
        {"device.ranks_per_device", "2"},
        {"device.faulting_addresses", "true"},
        {"device.neighbours", "[{rank: 0, bytes: 1, from_step: 0, to_step: 1}]"},
    };
    bool built = device_find("cuda") != NULL;
    struct config config = parse_with("train.seed=2");
    assert_null(config_cpu_key(&config));
    config_finish(&config);
    for (size_t i = 0; i < COUNT_OF(cpu); i++) {
        char override[128], message[256];
        snprintf(override, sizeof(override), "%s=%s", cpu[i][0], cpu[i][1]);
        snprintf(message, sizeof(message),
                 "command line: %s: device.kind cuda has no such thing; it is the CPU device's", override);
        config = parse_with(override);
        assert_string_equal(config_cpu_key(&config), cpu[i][0]);
        config_finish(&config);
        char *overrides[] = {"device.kind=cuda", override};
        struct error error = {0};
        assert_int_equal(config_parse(&config, minimal, "run.yaml", overrides, 2, &error), STATUS_INVALID);
        assert_string_equal(error.text, built ? message
                                              : "command line: device.kind=cuda: cuda: this program was built without "
                                                "it; allowed: auto, cpu");
    }
    char *nccl[] = {"device.kind=cpu", "comm.reduce=nccl"};
    struct error error = {0};
    assert_int_equal(config_parse(&config, minimal, "run.yaml", nccl, 2, &error), STATUS_INVALID);
    assert_string_equal(error.text, "command line: comm.reduce=nccl: nccl needs device.kind cuda");
}

static void gpt_needs_its_sizes(void **state)
{
    (void)state;
    static const char gpt[] = "model: {kind: gpt, vocab_size: 256, seq_len: 8, block_count: 1, channels: 12,\n"
                              "  head_count: 4}\n"
                              "train: {epochs: 1, global_batch_size: 8}\n"
                              "data: {kind: text, path: a}\n";
    static const struct {
        const char *override, *message;
    } bad[] = {
        {"model.head_count=5", "run.yaml:1:65: model.channels: 12 is not a multiple of model.head_count 5"},
        {"model.channels=13", "command line: model.channels=13: 13 is not a multiple of model.head_count 4"},
        {"model.head_count=null", "command line: model.head_count=null: model.kind gpt needs it"},
        {"model.seq_len=null", "command line: model.seq_len=null: model.kind gpt needs it"},
        {"model.block_count=null", "command line: model.block_count=null: model.kind gpt needs it"},
        {"model.channels=null", "command line: model.channels=null: model.kind gpt needs it"},
        {"data.path=null", "command line: data.path=null: data.kind text needs it"},
        {"data.kind=idx", "command line: data.kind=idx: idx and npy need model.kind mlp"},
        {"data.pack=no", "command line: data.pack=no: 'no' is neither true nor false; allowed: true, false"},
    };
    struct config config;
    assert_int_equal(config_parse(&config, gpt, "run.yaml", NULL, 0, NULL), STATUS_OK);
    assert_round_trip(&config);
    config_finish(&config);
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        char *overrides[] = {(char *)bad[i].override};
        struct error error = {0};
        assert_int_equal(config_parse(&config, gpt, "run.yaml", overrides, 1, &error), STATUS_INVALID);
        assert_string_equal(error.text, bad[i].message);
    }
    char *tokens[] = {"data.kind=tokens", "data.path=null"};
    struct error error = {0};
    assert_int_equal(config_parse(&config, gpt, "run.yaml", tokens, 2, &error), STATUS_INVALID);
    assert_string_equal(error.text, "command line: data.path=null: data.kind tokens needs it");
    char *synthetic[] = {"data.kind=synthetic", "data.samples=5"};
    assert_int_equal(config_parse(&config, gpt, "run.yaml", synthetic, 2, NULL), STATUS_OK);
    config_finish(&config);
    char *lines[] = {"data.pack=false"};
    assert_int_equal(config_parse(&config, gpt, "run.yaml", lines, 1, NULL), STATUS_OK);
    assert_false(config.data.pack);
    assert_round_trip(&config);
    config_finish(&config);
}

#define GPT_SIZES                                                                                                      \
    "model: {kind: gpt, vocab_size: 256, seq_len: 8, block_count: 1, channels: 12, head_count: 4}\n"                   \
    "train: {epochs: 1, global_batch_size: 8}\n"

// Made-up samples and images are of one length.
static void only_texts_and_tokens_have_lengths(void **state)
{
    (void)state;
    expect_refused(GPT_SIZES "data: {kind: synthetic, pack: false, samples: 5}\n",
                   "run.yaml:3:25: data.pack: false is for data.kind text, whose lines are samples then, and tokens, "
                   "whose documents are; allowed here: true");
    expect_override_refused("data.pack=false",
                            "command line: data.pack=false: false is for data.kind text, whose lines are samples then, "
                            "and tokens, whose documents are; allowed here: true");
}

static void documents_end_in_a_token_of_the_model(void **state)
{
    (void)state;
    struct config config;
    const char *text = GPT_SIZES "data: {kind: tokens, pack: false, end_of_text: 255, path: a}\n";
    assert_int_equal(config_parse(&config, text, "run.yaml", NULL, 0, NULL), STATUS_OK);
    assert_int_equal(config.data.end_of_text, 255);
    assert_round_trip(&config);
    config_finish(&config);
    expect_refused(GPT_SIZES "data: {kind: tokens, pack: false, end_of_text: 256, path: a}\n",
                   "run.yaml:3:35: data.end_of_text: 256 is no token where model.vocab_size is 256; allowed: 0 to 255");
    expect_refused(GPT_SIZES "data: {kind: tokens, pack: false, path: a}\n",
                   "run.yaml: data.end_of_text: 50256 is no token where model.vocab_size is 256; allowed: 0 to 255");
    expect_refused(GPT_SIZES "data: {kind: text, pack: false, end_of_text: 10, path: a}\n",
                   "run.yaml:3:33: data.end_of_text: is for data.kind tokens; allowed here: 50256");
}

static void expect_ranks(const char *override, uint64_t ranks, const char *message)
{
    struct config config = parse_with(override);
    struct error error = {0};
    enum status status = config_check_ranks(&config, ranks, &error);
    assert_int_equal(status, message == NULL ? STATUS_OK : STATUS_INVALID);
    assert_string_equal(error.text, message == NULL ? "" : message);
    config_finish(&config);
}

// Of a global batch of 8.
static void expect_grains(uint64_t grain_size, uint64_t ranks, const char *complaint)
{
    struct config config = parse_with("train.reproducible=true");
    struct error error = {0};
    config.train.grain_size = grain_size;
    enum status status = config_check_ranks(&config, ranks, &error);
    assert_int_equal(status, complaint == NULL ? STATUS_OK : STATUS_INVALID);
    assert_true(complaint == NULL || strstr(error.text, complaint) != NULL);
    config_finish(&config);
}

static void ranks_must_fit(void **state)
{
    (void)state;
    expect_ranks("train.global_batch_size=8", 8, NULL);
    expect_ranks("train.global_batch_size=7", 8,
                 "command line: train.global_batch_size=7: 7 samples are too few for 8 ranks; each needs at least one");
    expect_ranks("train.global_batch_size=1", 2,
                 "command line: train.global_batch_size=1: 1 sample is too few for 2 ranks; each needs at least one");
    expect_ranks("train.reproducible=true", 8, NULL);
    expect_grains(2, 4, NULL);
    expect_grains(3, 4, "3 leaves less than a grain of the global batch for each of 4 ranks");
    expect_ranks("device.capacity=1MiB", 8, NULL);
    expect_ranks("device.capacity=[1MiB, 2MiB, 3MiB]", 3, NULL);
    expect_ranks("device.capacity=[1MiB, 2MiB, 3MiB]", 4,
                 "command line: device.capacity=[1MiB, 2MiB, 3MiB]: a list of 3 for 4 devices; give one for all or one "
                 "for each device");
    expect_ranks("device.capacity=[1MiB, 2MiB]", 1,
                 "command line: device.capacity=[1MiB, 2MiB]: a list of 2 for 1 device; give one for all or one for "
                 "each device");
    expect_ranks("fault.rank=3", 4, NULL);
    expect_ranks("fault.rank=4", 4, "command line: fault.rank=4: there is no rank 4 among 4, counted from 0");
    expect_ranks("fault.rank=all", 1, NULL);
    expect_ranks("fault.fail_allocation_first=[2, auto, 3]", 3, NULL);
    expect_ranks("fault.fail_allocation_first=[2, 3]", 1,
                 "command line: fault.fail_allocation_first=[2, 3]: a list of 2 for 1 rank; give one for all or one "
                 "for each rank");
    expect_ranks("train.seed=1", 9,
                 "run.yaml:2:19: train.global_batch_size: 8 samples are too few for 9 ranks; each needs at least one");
    expect_ranks("device.neighbours=[{rank: 1, bytes: 1, from_step: 0, to_step: 1}]", 2, NULL);
    expect_ranks("device.neighbours=[{rank: 2, bytes: 1, from_step: 0, to_step: 1}]", 2,
                 "command line: device.neighbours=[{rank: 2, bytes: 1, from_step: 0, to_step: 1}]: there is no rank 2 "
                 "among 2, counted from 0");
}

static void ranks_that_share_a_device_share_its_capacity(void **state)
{
    (void)state;
    struct config config;
    char *overrides[] = {"device.capacity=[1MiB, 2MiB]", "device.ranks_per_device=2"};
    assert_int_equal(config_parse(&config, minimal, "run.yaml", overrides, 2, NULL), STATUS_OK);
    assert_int_equal(config_check_ranks(&config, 2, NULL), STATUS_INVALID);
    assert_int_equal(config_check_ranks(&config, 3, NULL), STATUS_OK);
    assert_int_equal(config_check_ranks(&config, 4, NULL), STATUS_OK);
    assert_int_equal(config_check_ranks(&config, 5, NULL), STATUS_INVALID);
    config_finish(&config);
}

static const char *const configs[] = {"quickstart", "seed-mlp", "gpt-kjv", "gpt2-124m"};

static struct config read_shipped(const char *name)
{
    char path[512];
    struct config config;
    struct error error = {0};
    snprintf(path, sizeof(path), "configs/%s.yaml", name);
    if (config_read(&config, path, NULL, 0, &error) != STATUS_OK) {
        fail_msg("%s", error.text);
    }
    return config;
}

static void metrics_are_served_at_a_numeric_address(void **state)
{
    (void)state;
    const char *good[] = {"metrics.http_address=0.0.0.0", "metrics.http_address=::1", "metrics.http_port=65535"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct config config = parse_with(good[i]);
        assert_round_trip(&config);
        config_finish(&config);
    }
    expect_override_refused("metrics.http_address=localhost",
                            "command line: metrics.http_address=localhost: 'localhost' is no address; allowed: "
                            "numbers such as 127.0.0.1 and ::1");
    expect_invalid_override("metrics.http_address=127.0.0.1:9100");
    expect_invalid_override("metrics.http_port=65536");
    expect_invalid_override("metrics.csv=1");
}

static void prometheus_reads_files_of_its_own_ending(void **state)
{
    (void)state;
    struct config config = parse_with("metrics.prometheus_file=a/b.prom");
    assert_string_equal(config.metrics.prometheus_file, "a/b.prom");
    config_finish(&config);
    expect_override_refused("metrics.prometheus_file=metrics.txt",
                            "command line: metrics.prometheus_file=metrics.txt: 'metrics.txt' does not end in .prom, "
                            "and node_exporter reads no other files");
    expect_invalid_override("metrics.prometheus_file=prom");
    expect_invalid_override("metrics.prometheus_file=a.prom/");
}

static void shipped_configs_are_valid_and_round_trip(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(configs); i++) {
        struct config config = read_shipped(configs[i]);
        struct error error = {0};
        if (config_check_ranks(&config, 4, &error) != STATUS_OK) {
            fail_msg("%s: %s", configs[i], error.text);
        }
        assert_round_trip(&config);
        config_finish(&config);
    }
}

// Writes `size` bytes to a new file and gives its path, which the caller unlinks.
static void write_file(char path[], const char *bytes, size_t size)
{
    int file = mkstemp(path);
    assert_true(file >= 0);
    assert_int_equal(write(file, bytes, size), size);
    assert_int_equal(close(file), 0);
}

static void files_that_are_no_configuration(void **state)
{
    (void)state;
    struct config config;
    struct error error = {0};
    assert_int_equal(config_read(&config, "/nowhere/x.yaml", NULL, 0, &error), STATUS_INVALID);
    assert_string_equal(error.text, "/nowhere/x.yaml: No such file or directory");
    assert_int_equal(config_read(&config, "/", NULL, 0, &error), STATUS_INVALID);
    assert_string_equal(error.text, "/: is not a regular file");
    assert_int_equal(config_read(&config, "/dev/null", NULL, 0, &error), STATUS_INVALID);
    assert_string_equal(error.text, "/dev/null: is not a regular file");

    char path[] = "/tmp/test_config_XXXXXX";
    write_file(path, "run:\0\n", 6);
    assert_int_equal(config_read(&config, path, NULL, 0, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, ": a configuration is text, but byte 5 is zero"));
    unlink(path);
    strcpy(path, "/tmp/test_config_XXXXXX");
    write_file(path, "", 0);
    assert_int_equal(config_read(&config, path, NULL, 0, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, ": the file is empty"));
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0); // that nobody writes
    assert_int_equal(config_read(&config, path, NULL, 0, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, ": is not a regular file"));
    unlink(path);
}

static void help_has_a_line_for_each_key(void **state)
{
    (void)state;
    char *help = NULL;
    size_t size;
    FILE *file = open_memstream(&help, &size);
    assert_non_null(file);
    config_print_help(&config_schema, file);
    fclose(file);
    assert_non_null(strstr(help,
                           "train.global_batch_size       samples per optimizer step over all ranks; memory never "
                           "changes it (count: 1 to 4294967295; required)\n"));
    assert_non_null(strstr(help, "\nfault.rank "));
    free(help);
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

// One to four bytes of the text become others; half of them such as mean something to YAML.
static void mutate(char *text, size_t length, uint64_t *random)
{
    static const char special[] = "\n\t :,[]{}#&*!|>'\"%@`-?.=0x";
    for (uint64_t flips = 1 + next_random(random) % 4; flips > 0; flips--) {
        uint64_t byte = next_random(random) % 512;
        text[next_random(random) % length] = byte < 256 ? (char)byte : special[byte % (sizeof(special) - 1)];
    }
}

static void damaged_text_is_accepted_or_refused_with_one_line(void **state)
{
    (void)state;
    uint64_t seed = 20240607;
    struct config origin = read_shipped("quickstart");
    char *text = config_print(&origin);
    config_finish(&origin);
    size_t length = strlen(text);
    char *damaged = malloc(length + 1);
    assert_non_null(damaged);
    int refused = 0;
    for (int round = 0; round < 2000; round++) {
        uint64_t random = seed + (uint64_t)round;
        memcpy(damaged, text, length + 1);
        mutate(damaged, length, &random);
        struct config config;
        struct error error = {0};
        if (config_parse(&config, damaged, "run.yaml", NULL, 0, &error) == STATUS_OK) {
            assert_round_trip(&config);
            config_finish(&config);
        } else if (error.status != STATUS_INVALID || error.text[0] == '\0' || strchr(error.text, '\n') != NULL) {
            fail_msg("seed %llu: \"%s\"", (unsigned long long)seed + (unsigned)round, error.text);
        } else {
            refused++;
        }
    }
    assert_in_range(refused, 1, 1999);
    free(damaged);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_fill_what_the_file_leaves_out),
        cmocka_unit_test(run_folder_is_named_after_the_file),
        cmocka_unit_test(counts_are_whole_and_in_range),
        cmocka_unit_test(bytes_are_exact),
        cmocka_unit_test(reals_are_finite_decimal_numbers),
        cmocka_unit_test(names_and_booleans_are_exact),
        cmocka_unit_test(texts_survive_yaml),
        cmocka_unit_test(lists_take_one_or_many),
        cmocka_unit_test(lists_end_where_the_struct_ends),
        cmocka_unit_test(neighbours_name_all_they_need),
        cmocka_unit_test(mistakes_name_their_place),
        cmocka_unit_test(values_are_quoted_on_one_line),
        cmocka_unit_test(long_input_leaves_room_for_the_complaint),
        cmocka_unit_test(unknown_names_get_a_suggestion),
        cmocka_unit_test(yaml_errors_are_one_line),
        cmocka_unit_test(only_utf8_is_text),
        cmocka_unit_test(overrides_have_a_form),
        cmocka_unit_test(overrides_beat_the_file_and_the_last_one_wins),
        cmocka_unit_test(required_keys_are_required),
        cmocka_unit_test(keys_must_fit_together),
        cmocka_unit_test(keys_must_fit_the_device),
        cmocka_unit_test(gpt_needs_its_sizes),
        cmocka_unit_test(only_texts_and_tokens_have_lengths),
        cmocka_unit_test(documents_end_in_a_token_of_the_model),
        cmocka_unit_test(ranks_must_fit),
        cmocka_unit_test(ranks_that_share_a_device_share_its_capacity),
        cmocka_unit_test(metrics_are_served_at_a_numeric_address),
        cmocka_unit_test(prometheus_reads_files_of_its_own_ending),
        cmocka_unit_test(shipped_configs_are_valid_and_round_trip),
        cmocka_unit_test(files_that_are_no_configuration),
        cmocka_unit_test(help_has_a_line_for_each_key),
        cmocka_unit_test(damaged_text_is_accepted_or_refused_with_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
