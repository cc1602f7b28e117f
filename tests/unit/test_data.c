// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "kernels/kernels.h"
#include "worker/data/data.h"

// A folder for the files of one test; all paths are relative to it.
static int enter_folder(void **state)
{
    char *folder = strdup("/tmp/headroom-test-data-XXXXXX");
    *state = folder;
    return mkdtemp(folder) == NULL ? -1 : chdir(folder);
}

static int leave_folder(void **state)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -r '%s'", (char *)*state);
    free(*state);
    return chdir("/") != 0 ? -1 : system(command);
}

static void write_file(const char *path, const void *bytes, size_t count)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static void write_gzip(const char *path, const void *bytes, size_t count)
{
    gzFile file = gzopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(gzwrite(file, bytes, (unsigned)count), count);
    assert_int_equal(gzclose(file), Z_OK);
}

static size_t read_whole(const char *path, uint8_t *bytes, size_t size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t count = fread(bytes, 1, size, file);
    fclose(file);
    return count;
}

static struct data_set *open_split(const struct config *config, enum data_split split)
{
    struct error error = {.text = ""};
    struct data_set *set;
    if (data_open(config, split, &set, &error) != STATUS_OK) {
        fail_msg("%s", error.text);
    }
    return set;
}

// The split is refused as `status`, with exactly this line.
static void assert_refused(const struct config *config, enum data_split split, enum status status, const char *line)
{
    struct error error = {.text = ""};
    struct data_set *set = NULL;
    assert_int_equal(data_open(config, split, &set, &error), status);
    assert_string_equal(error.text, line);
    assert_int_equal(error.status, status);
    assert_null(set);
}

static void read_sample(const struct data_set *set, uint64_t index, void *input, int32_t *targets)
{
    struct error error = {.text = ""};
    if (set->ops->read(set, index, input, targets, &error) != STATUS_OK) {
        fail_msg("%s", error.text);
    }
}

// A sample of tokens cannot be read, with exactly this line.
static void assert_unreadable(const struct data_set *set, uint64_t index, enum status status, const char *line)
{
    struct error error = {.text = ""};
    int32_t tokens[16], targets[16];
    assert_int_equal(set->ops->read(set, index, tokens, targets, &error), status);
    assert_string_equal(error.text, line);
    assert_int_equal(error.status, status);
}

// The descriptor of a file in this folder, negative where it is not open; an empty name stands for any.
static int descriptor_of(const char *name)
{
    int found = -1;
    DIR *descriptors = opendir("/proc/self/fd");
    assert_non_null(descriptors);
    for (struct dirent *entry; (entry = readdir(descriptors)) != NULL;) {
        char path[512] = "", folder[64];
        ssize_t length = readlinkat(dirfd(descriptors), entry->d_name, path, sizeof(path) - 1);
        assert_non_null(getcwd(folder, sizeof(folder)));
        if (length > 0 && strncmp(path, folder, strlen(folder)) == 0 && strstr(path + strlen(folder), name) != NULL) {
            found = atoi(entry->d_name);
        }
    }
    closedir(descriptors);
    return found;
}

// Whatever a user may name instead of a file is refused at once, and left closed. `name` is one of the set's files.
static void assert_takes_only_regular_files(const struct config *config, char **name)
{
    char *good = *name;
    assert_int_equal(mkfifo("fifo", 0666), 0);
    assert_int_equal(mkdir("folder", 0777), 0);
    *name = "fifo";
    assert_refused(config, DATA_TRAIN, STATUS_INVALID, "fifo: is not a regular file");
    *name = "folder";
    assert_refused(config, DATA_TRAIN, STATUS_INVALID, "folder: is not a regular file");
    *name = "/dev/zero";
    assert_refused(config, DATA_TRAIN, STATUS_INVALID, "/dev/zero: is not a regular file");
    assert_true(descriptor_of("") < 0);
    *name = good;
    data_close(open_split(config, DATA_TRAIN));
    assert_int_equal(unlink("fifo"), 0);
    assert_int_equal(rmdir("folder"), 0);
}

// The order of samples

static void assert_permutation(uint64_t samples, uint64_t seed, uint64_t epoch)
{
    uint8_t *seen = calloc(samples, 1);
    assert_non_null(seen);
    for (uint64_t i = 0; i < samples; i++) {
        uint64_t index = data_order(epoch * samples + i, samples, seed, true);
        assert_true(index < samples);
        assert_int_equal(seen[index]++, 0);
    }
    free(seen);
}

static void test_order_is_a_permutation(void **state)
{
    (void)state;
    for (uint64_t samples = 1; samples <= 300; samples++) {
        assert_permutation(samples, 7, 0);
        assert_permutation(samples, 8, 3);
    }
    const uint64_t sizes[] = {1000, 1023, 1024, 1025, 4096, 4097, 60000, 1000003};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        assert_permutation(sizes[i], 1, i);
    }
}

static uint64_t count_equal_places(uint64_t samples, uint64_t first_a, uint64_t first_b, uint64_t seed_a,
                                   uint64_t seed_b)
{
    uint64_t equal = 0;
    for (uint64_t i = 0; i < samples; i++) {
        equal += data_order(first_a + i, samples, seed_a, true) == data_order(first_b + i, samples, seed_b, true);
    }
    return equal;
}

// Two random permutations agree in one place on average; in more than 12 hardly ever.
static void test_epochs_and_seeds_have_orders_of_their_own(void **state)
{
    (void)state;
    assert_true(count_equal_places(1000, 0, 1000, 1, 1) <= 12);
    assert_true(count_equal_places(1000, 0, 0, 1, 2) <= 12);
    assert_int_equal(count_equal_places(1000, 0, 0, 1, 1), 1000);
}

static void test_order_without_shuffling_is_the_sets_own(void **state)
{
    (void)state;
    for (uint64_t position = 0; position < 25; position++) {
        assert_int_equal(data_order(position, 10, 5, false), position % 10);
    }
}

static void test_order_of_a_huge_set_stays_inside(void **state)
{
    (void)state;
    const uint64_t samples = (UINT64_C(1) << 40) + 1;
    for (uint64_t position = samples - 50; position < samples + 50; position++) {
        assert_true(data_order(position, samples, 1, true) < samples);
    }
}

// Over many epochs, every sample comes about as often in every place. The counts of a fair shuffle have a chi-square
// with 56 degrees of freedom about them: above 110 once in 50,000 seeds.
static void test_order_has_no_favourite_places(void **state)
{
    (void)state;
    enum { SAMPLES = 8, EPOCHS = 8000 };
    double counts[SAMPLES][SAMPLES] = {0}, expected = (double)EPOCHS / SAMPLES, chi_square = 0;
    for (uint64_t position = 0; position < (uint64_t)SAMPLES * EPOCHS; position++) {
        counts[position % SAMPLES][data_order(position, SAMPLES, 3, true)] += 1;
    }
    for (size_t i = 0; i < SAMPLES; i++) {
        for (size_t j = 0; j < SAMPLES; j++) {
            chi_square += (counts[i][j] - expected) * (counts[i][j] - expected) / expected;
        }
    }
    assert_true(chi_square < 110);
}

// Each of the 6 orders of 3 samples comes up.
static void test_small_sets_take_every_order(void **state)
{
    (void)state;
    unsigned seen = 0;
    for (uint64_t epoch = 0; epoch < 200; epoch++) {
        uint64_t a = data_order(3 * epoch, 3, 1, true), b = data_order(3 * epoch + 1, 3, 1, true);
        seen |= 1U << (3 * a + b);
    }
    assert_int_equal(__builtin_popcount(seen), 6);
}

// Images and labels

enum { IMAGE_HEADER = 16, LABEL_HEADER = 8, SIDE = 2, PIXELS = SIDE * SIDE, IMAGES = 3 };

static const uint8_t image_file[IMAGE_HEADER + IMAGES * PIXELS] = {
    0, 0, 8, 3, 0,  0,  0,  IMAGES, 0,   0,   0,   SIDE, 0, 0, 0, SIDE, // header
    0, 1, 2, 3, 50, 51, 52, 53,     252, 253, 254, 255};
static const uint8_t label_file[LABEL_HEADER + IMAGES] = {0, 0, 8, 1, 0, 0, 0, IMAGES, 2, 0, 1};

static struct config idx_config(void)
{
    return (struct config){
        .model = {.kind = CONFIG_MODEL_MLP, .layers = {PIXELS, 5, 3}, .layers_count = 3},
        .data = {.kind = CONFIG_DATA_IDX, .images = "images", .labels = "labels", .pack = true},
    };
}

static void assert_is_image_file(const struct data_set *set)
{
    assert_int_equal(set->samples, IMAGES);
    assert_int_equal(set->shape.input, DATA_INPUT_FLOAT32);
    assert_int_equal(set->shape.input_count, PIXELS);
    assert_int_equal(set->shape.target_count, 1);
    assert_int_equal(set->shape.classes, 3);
    for (uint64_t i = 0; i < IMAGES; i++) {
        float values[PIXELS];
        int32_t target;
        read_sample(set, i, values, &target);
        assert_int_equal(target, label_file[LABEL_HEADER + i]);
        for (size_t j = 0; j < PIXELS; j++) {
            assert_true(values[j] == (float)image_file[IMAGE_HEADER + i * PIXELS + j] / 255.0f);
        }
    }
}

static void test_idx_reads_plain_files(void **state)
{
    (void)state;
    struct config config = idx_config();
    write_file("images", image_file, sizeof(image_file));
    write_file("labels", label_file, sizeof(label_file));
    struct data_set *set = open_split(&config, DATA_TRAIN);
    assert_is_image_file(set);
    data_close(set);
}

static void test_idx_reads_gzip_as_validation(void **state)
{
    (void)state;
    struct config config = idx_config();
    config.data.validation_images = "images.gz";
    config.data.validation_labels = "labels.gz";
    write_gzip("images.gz", image_file, sizeof(image_file));
    write_gzip("labels.gz", label_file, sizeof(label_file));
    struct data_set *set = open_split(&config, DATA_VALIDATION);
    assert_is_image_file(set);
    data_close(set);
}

static void test_idx_reads_vectors(void **state)
{
    (void)state;
    struct config config = idx_config();
    const uint8_t vectors[] = {0, 0, 8, 2, 0, 0, 0, 3, 0, 0, 0, 4, 9, 9, 9, 9, 8, 8, 8, 8, 51, 102, 153, 204};
    write_file("images", vectors, sizeof(vectors));
    write_file("labels", label_file, sizeof(label_file));
    struct data_set *set = open_split(&config, DATA_TRAIN);
    float values[PIXELS];
    int32_t target;
    assert_int_equal(set->samples, 3);
    read_sample(set, 2, values, &target);
    assert_true(values[0] == 0.2f && values[1] == 0.4f && values[2] == 0.6f && values[3] == 0.8f);
    data_close(set);
}

static void test_idx_without_validation_has_no_set(void **state)
{
    (void)state;
    struct config config = idx_config();
    assert_null(open_split(&config, DATA_VALIDATION));
    data_close(NULL);
}

static void test_idx_refuses_missing_files(void **state)
{
    (void)state;
    struct config config = idx_config();
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "images: there is no such file");
    write_file("images", image_file, sizeof(image_file));
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "labels: there is no such file");
    config.data.images = "/usr/share/datasets/fashion-mnist/none.gz";
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "/usr/share/datasets/fashion-mnist/none.gz: there is no such file; install the Debian package "
                   "dataset-fashion-mnist");
    config.data.images = "images/below";
    assert_refused(&config, DATA_TRAIN, STATUS_ERROR, "images/below: cannot read: Not a directory");
}

static void test_idx_takes_only_regular_files(void **state)
{
    (void)state;
    struct config config = idx_config();
    write_file("images", image_file, sizeof(image_file));
    write_file("labels", label_file, sizeof(label_file));
    assert_takes_only_regular_files(&config, &config.data.images);
    assert_takes_only_regular_files(&config, &config.data.labels);
}

// So many bytes that memory for them is taken in several steps.
static void test_idx_reads_large_files(void **state)
{
    (void)state;
    enum { LENGTH = 50000, COUNT = 7, BYTES = 12 + COUNT * LENGTH };
    static uint8_t vectors[BYTES] = {0, 0, 8, 2, 0, 0, 0, COUNT, 0, 0, LENGTH >> 8, LENGTH & 0xff};
    static float values[LENGTH];
    const uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, COUNT, 0, 1, 2, 0, 1, 2, 0};
    struct config config = idx_config();
    config.model.layers[0] = LENGTH;
    for (size_t i = 12; i < BYTES; i++) {
        vectors[i] = (uint8_t)(i % 251);
    }
    write_file("labels", labels, sizeof(labels));
    for (int compressed = 0; compressed <= 1; compressed++) {
        (compressed ? write_gzip : write_file)("images", vectors, BYTES);
        struct data_set *set = open_split(&config, DATA_TRAIN);
        assert_int_equal(set->samples, COUNT);
        for (uint64_t i = 0; i < COUNT; i++) {
            int32_t target;
            read_sample(set, i, values, &target);
            for (size_t j = 0; j < LENGTH; j++) {
                assert_true(values[j] == (float)((12 + i * LENGTH + j) % 251) / 255.0f);
            }
        }
        data_close(set);
    }
}

// A kilobyte whose header promises more than any machine has.
static void test_idx_takes_no_memory_for_a_promise(void **state)
{
    (void)state;
    struct config config = idx_config();
    uint8_t images[1024] = {0, 0, 8, 3, 0x80, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 28};
    const char *line = "images: truncated: header promises 2147483648 images of 28x28 (1683627180032 bytes), found "
                       "1008 bytes";
    write_file("images", images, sizeof(images));
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, line);
    write_gzip("images", images, sizeof(images));
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, line);
    images[4] = 0x30;
    write_file("images", images, sizeof(images));
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "images: truncated: header promises 805306368 images of 28x28 (631360192512 bytes), found 1008 "
                   "bytes");
}

static void test_idx_refuses_another_magic_number(void **state)
{
    (void)state;
    struct config config = idx_config();
    write_file("images", label_file, sizeof(label_file));
    write_file("labels", image_file, sizeof(image_file));
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "images: holds no images: magic number 0x00000801, expected 0x00000803 or 0x00000802");
    write_file("images", image_file, sizeof(image_file));
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "labels: holds no labels: magic number 0x00000803, expected 0x00000801");
}

// Every length that is too short, in the header and after it.
static void test_idx_refuses_truncated_files(void **state)
{
    (void)state;
    struct config config = idx_config();
    for (size_t length = 0; length < sizeof(image_file); length++) {
        char line[128] = "images: truncated: the file ends within its header";
        if (length >= IMAGE_HEADER) {
            snprintf(line, sizeof(line),
                     "images: truncated: header promises 3 images of 2x2 (12 bytes), found %zu bytes",
                     length - IMAGE_HEADER);
        }
        write_file("images", image_file, length);
        assert_refused(&config, DATA_TRAIN, STATUS_INVALID, line);
    }
    write_file("images", image_file, sizeof(image_file));
    write_file("labels", label_file, sizeof(label_file) - 1);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "labels: truncated: header promises 3 labels (3 bytes), found 2 bytes");
}

static void test_idx_refuses_trailing_bytes(void **state)
{
    (void)state;
    struct config config = idx_config();
    uint8_t longer[sizeof(image_file) + 5000] = {0};
    memcpy(longer, image_file, sizeof(image_file));
    write_file("images", longer, sizeof(longer));
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "images: trailing bytes: 5000 more after 3 images of 2x2 (12 bytes)");
    write_file("images", longer, sizeof(image_file) + 1);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "images: trailing bytes: 1 more after 3 images of 2x2 (12 bytes)");
}

static void test_idx_refuses_damaged_gzip(void **state)
{
    (void)state;
    struct config config = idx_config();
    uint8_t bytes[256];
    write_gzip("images", image_file, sizeof(image_file));
    size_t length = read_whole("images", bytes, sizeof(bytes));
    write_file("images", bytes, length - 3); // every value is there
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "images: truncated: the compressed data have no end");
    bytes[length - 5] ^= 1; // the checksum's last byte
    write_file("images", bytes, length);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "images: incorrect data check (the file is damaged)");
    write_file("images", bytes, length / 2); // both the end and the checksum are missing
    struct error error;
    struct data_set *set;
    assert_int_equal(data_open(&config, DATA_TRAIN, &set, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "images: truncated: "));
}

static void test_idx_refuses_counts_that_differ(void **state)
{
    (void)state;
    struct config config = idx_config();
    const uint8_t two_labels[] = {0, 0, 8, 1, 0, 0, 0, 2, 0, 1};
    write_file("images", image_file, sizeof(image_file));
    write_file("labels", two_labels, sizeof(two_labels));
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "labels: 2 labels, but images has 3 images");
}

static void test_idx_refuses_a_label_beyond_the_classes(void **state)
{
    (void)state;
    struct config config = idx_config();
    const uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, 3, 0, 1, 3};
    write_file("images", image_file, sizeof(image_file));
    write_file("labels", labels, sizeof(labels));
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "labels: label 2 is 3, but model.layers ends with 3 classes (labels count from 0)");
}

static void test_idx_refuses_absurd_sizes(void **state)
{
    (void)state;
    struct config config = idx_config();
    const uint8_t overflow[] = {0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
    const uint8_t empty[] = {0, 0, 8, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2};
    write_file("images", overflow, sizeof(overflow));
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "images: absurd sizes: header promises 4294967295 images of 4294967295x4294967295");
    write_file("images", empty, sizeof(empty));
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "images: absurd sizes: header promises 0 images of 2x2");
}

static void test_images_must_fit_the_model(void **state)
{
    (void)state;
    struct config config = idx_config();
    config.model.layers[0] = 7;
    write_file("images", image_file, sizeof(image_file));
    write_file("labels", label_file, sizeof(label_file));
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "model.layers: the first size is 7, but a sample of data.kind idx has 4 values");
}

// Text

static struct config text_config(uint64_t seq_len)
{
    return (struct config){
        .model = {.kind = CONFIG_MODEL_GPT, .vocab_size = 256, .seq_len = seq_len},
        .data = {.kind = CONFIG_DATA_TEXT, .path = "text", .pack = true},
    };
}

// Sample `index` is the window first, first + 1, ... of tokens.
static void assert_window(const struct data_set *set, uint64_t index, int32_t first)
{
    int32_t tokens[16], targets[16];
    assert_true(index < set->samples && set->shape.input_count <= 16);
    read_sample(set, index, tokens, targets);
    for (uint64_t t = 0; t < set->shape.input_count; t++) {
        assert_int_equal(tokens[t], first + (int32_t)t);
        assert_int_equal(targets[t], first + (int32_t)t + 1);
    }
}

static void write_text(const char *path, uint8_t first, size_t length)
{
    uint8_t bytes[256];
    for (size_t i = 0; i < length; i++) {
        bytes[i] = (uint8_t)(first + i);
    }
    write_file(path, bytes, length);
}

static void test_text_is_cut_into_windows(void **state)
{
    (void)state;
    struct config config = text_config(4);
    for (size_t length = 5; length <= 20; length++) {
        write_text("text", 200, length);
        struct data_set *set = open_split(&config, DATA_TRAIN);
        assert_int_equal(set->shape.input, DATA_INPUT_TOKENS);
        assert_int_equal(set->shape.input_count, 4);
        assert_int_equal(set->shape.target_count, 4);
        assert_int_equal(set->shape.classes, 256);
        assert_int_equal(set->samples, (length - 1) / 4);
        for (uint64_t i = 0; i < set->samples; i++) {
            assert_window(set, i, 200 + 4 * (int32_t)i);
        }
        data_close(set);
    }
}

static void test_text_keeps_its_end_for_validation(void **state)
{
    (void)state;
    struct config config = text_config(4);
    config.data.validation_fraction = 0.25;
    write_text("text", 0, 40);
    struct data_set *train = open_split(&config, DATA_TRAIN), *validation = open_split(&config, DATA_VALIDATION);
    assert_int_equal(train->samples, 7); // 30 bytes: the last window's last target is byte 28
    assert_window(train, 6, 24);
    assert_int_equal(validation->samples, 2); // 10 bytes
    assert_window(validation, 0, 30);
    assert_window(validation, 1, 34);
    data_close(train);
    data_close(validation);
}

static void test_text_of_validation_may_be_a_file_of_its_own(void **state)
{
    (void)state;
    struct config config = text_config(4);
    config.data.validation_fraction = 0.25; // not used then
    config.data.validation_path = "other";
    write_text("text", 0, 40);
    write_text("other", 100, 9);
    struct data_set *train = open_split(&config, DATA_TRAIN), *validation = open_split(&config, DATA_VALIDATION);
    assert_int_equal(train->samples, 9);
    assert_int_equal(validation->samples, 2);
    assert_window(validation, 1, 104);
    data_close(train);
    data_close(validation);
}

static void test_text_is_open_until_it_is_closed(void **state)
{
    (void)state;
    struct config config = text_config(4);
    write_text("text", 0, 40);
    struct data_set *set = open_split(&config, DATA_TRAIN);
    assert_true(descriptor_of("text") >= 0);
    data_close(set);
    assert_true(descriptor_of("text") < 0);
}

static void test_text_takes_only_regular_files(void **state)
{
    (void)state;
    struct config config = text_config(4);
    write_text("text", 0, 40);
    assert_takes_only_regular_files(&config, &config.data.path);
}

// Somebody cuts the file while training runs.
static void test_text_that_is_truncated_later_is_noticed(void **state)
{
    (void)state;
    struct config config = text_config(4);
    write_text("text", 0, 40);
    struct data_set *set = open_split(&config, DATA_TRAIN);
    assert_int_equal(truncate("text", 22), 0);
    assert_window(set, 4, 16);
    assert_unreadable(set, 5, STATUS_ERROR,
                      "text: the file ended while it was being read: it held 40 bytes, now at most 22");
    assert_unreadable(set, 7, STATUS_ERROR,
                      "text: the file ended while it was being read: it held 40 bytes, now at most 28");
    write_text("text", 0, 40);
    assert_window(set, 5, 20);
    data_close(set);
}

// A disk that fails is not at hand: a folder in the file's place cannot be read either.
static void test_text_that_cannot_be_read_says_why(void **state)
{
    (void)state;
    struct config config = text_config(4);
    write_text("text", 0, 40);
    struct data_set *set = open_split(&config, DATA_TRAIN);
    int folder = open(".", O_RDONLY);
    assert_true(dup2(folder, descriptor_of("text")) >= 0);
    assert_unreadable(set, 0, STATUS_ERROR, "text: cannot read: Is a directory");
    close(folder);
    data_close(set);
}

static void test_text_without_validation_has_no_set(void **state)
{
    (void)state;
    struct config config = text_config(4);
    assert_null(open_split(&config, DATA_VALIDATION));
}

static void test_text_refuses_files_that_give_no_sample(void **state)
{
    (void)state;
    struct config config = text_config(4);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "text: there is no such file");
    write_text("text", 0, 0);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "text: the file is empty");
    write_text("text", 0, 4);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "text: too short: 4 tokens for training, but a sample takes 5 (model.seq_len and one)");
    write_text("text", 0, 40);
    config.data.validation_fraction = 0.1;
    assert_refused(&config, DATA_VALIDATION, STATUS_INVALID,
                   "text: too short: 4 tokens for validation, but a sample takes 5 (model.seq_len and one)");
}

static void test_text_needs_a_vocabulary_of_bytes(void **state)
{
    (void)state;
    struct config config = text_config(4);
    config.model.vocab_size = 255;
    write_text("text", 0, 40);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "model.vocab_size: 255 is too small: data.kind text has 256 different tokens");
}

// Lines of a text

static struct config lines_config(uint64_t seq_len)
{
    struct config config = text_config(seq_len);
    config.data.pack = false;
    return config;
}

// The sample's tokens are those of `line` but the last, its targets those but the first, and padding follows.
static void assert_line(const struct data_set *set, uint64_t index, const char *line)
{
    int32_t tokens[16], targets[16];
    uint64_t length = strlen(line) - 1;
    assert_true(index < set->samples && length <= set->shape.input_count && set->shape.input_count <= 16);
    assert_int_equal(set->ops->length(set, index), length);
    read_sample(set, index, tokens, targets);
    for (uint64_t t = 0; t < set->shape.input_count; t++) {
        assert_int_equal(tokens[t], t < length ? (uint8_t)line[t] : 0);
        assert_int_equal(targets[t], t < length ? (uint8_t)line[t + 1] : KERNEL_TARGET_NONE);
    }
}

// `lines` is closed by NULL.
static void assert_lines(const struct config *config, enum data_split split, const char *const *lines)
{
    struct data_set *set = open_split(config, split);
    uint64_t count = 0;
    for (; lines[count] != NULL; count++) {
        assert_line(set, count, lines[count]);
    }
    assert_int_equal(set->samples, count);
    data_close(set);
}

#define LINES(...) ((const char *const[]){__VA_ARGS__, NULL})

static void write_string(const char *path, const char *text)
{
    write_file(path, text, strlen(text));
}

// Samples of 8 tokens at most, which are bytes.
static void assert_shape_of_bytes(const struct config *config)
{
    struct data_set *set = open_split(config, DATA_TRAIN);
    assert_int_equal(set->shape.input, DATA_INPUT_TOKENS);
    assert_int_equal(set->shape.input_count, 8);
    assert_int_equal(set->shape.target_count, 8);
    assert_int_equal(set->shape.classes, 256);
    data_close(set);
}

static void test_lines_are_samples(void **state)
{
    (void)state;
    struct config config = lines_config(8);
    write_string("text", "one\ntwo words\nthree\n");
    assert_lines(&config, DATA_TRAIN, LINES("one\n", "two words", "s\n", "three\n"));
    assert_shape_of_bytes(&config);
}

static void test_empty_lines_are_none(void **state)
{
    (void)state;
    struct config config = lines_config(8);
    write_string("text", "\n\na\n\n\nb\n\n");
    assert_lines(&config, DATA_TRAIN, LINES("a\n", "b\n"));
}

// A carriage return is a token, but no text.
static void test_lines_may_end_in_carriage_returns(void **state)
{
    (void)state;
    struct config config = lines_config(8);
    write_string("text", "a\r\n\r\nbc\r\n\r");
    assert_lines(&config, DATA_TRAIN, LINES("a\r\n", "bc\r\n"));
}

static void test_the_last_line_may_have_no_newline(void **state)
{
    (void)state;
    struct config config = lines_config(8);
    write_string("text", "a\nbc");
    assert_lines(&config, DATA_TRAIN, LINES("a\n", "bc"));
    write_string("text", "a\nb"); // nothing follows b
    assert_lines(&config, DATA_TRAIN, LINES("a\n"));
}

// Each byte after a line's first is a target exactly once.
static void test_long_lines_are_cut_side_by_side(void **state)
{
    (void)state;
    struct config config = lines_config(4);
    write_string("text", "abcd\nabcde\nabcdefgh\nabcdefghi\n");
    assert_lines(&config, DATA_TRAIN, LINES("abcd\n", "abcde", "e\n", "abcde", "efgh\n", "abcde", "efghi", "i\n"));
    config = lines_config(1);
    write_string("text", "ab\nc\n");
    assert_lines(&config, DATA_TRAIN, LINES("ab", "b\n", "c\n"));
}

// Lines that begin, end and lie across where the file is read in pieces.
static void test_lines_of_a_large_file(void **state)
{
    (void)state;
    enum { BYTES = 300000 };
    struct config config = lines_config(16);
    char *text = malloc(BYTES + 1), piece[18];
    uint64_t samples = 0, random = 7;
    assert_non_null(text);
    for (size_t i = 0; i < BYTES; i++) {
        random = random * UINT64_C(6364136223846793005) + 1;
        text[i] = (random >> 40) % 20 == 0 ? '\n' : (char)('a' + (random >> 50) % 26);
    }
    text[BYTES] = '\0';
    write_file("text", text, BYTES);
    struct data_set *set = open_split(&config, DATA_TRAIN);
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        size_t length = strlen(line);
        bool ended = line + length < text + BYTES;
        line[length] = ended ? '\n' : '\0';
        for (size_t first = 0; first + !ended < length; first += 16) {
            snprintf(piece, sizeof(piece), "%.*s", (int)(length + 1 - first < 17 ? length + 1 - first : 17),
                     line + first);
            assert_line(set, samples++, piece);
        }
    }
    assert_int_equal(set->samples, samples);
    data_close(set);
    free(text);
}

// A line belongs to the split that it begins in.
static void test_lines_keep_their_end_for_validation(void **state)
{
    (void)state;
    struct config config = lines_config(8);
    config.data.validation_fraction = 0.5;
    write_string("text", "abc\ndefg\nhi\nj\n"); // of 14 bytes, the border is in defg
    assert_lines(&config, DATA_TRAIN, LINES("abc\n", "defg\n"));
    assert_lines(&config, DATA_VALIDATION, LINES("hi\n", "j\n"));
    config.data.validation_path = "other";
    write_string("other", "k\n");
    assert_lines(&config, DATA_TRAIN, LINES("abc\n", "defg\n", "hi\n", "j\n"));
    assert_lines(&config, DATA_VALIDATION, LINES("k\n"));
    config.data.validation_path = NULL;
    config.data.validation_fraction = 0;
    assert_null(open_split(&config, DATA_VALIDATION));
}

static void test_lines_refuse_files_that_give_no_sample(void **state)
{
    (void)state;
    struct config config = lines_config(8);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "text: there is no such file");
    write_string("text", "");
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "text: the file is empty");
    write_string("text", "\n\r\n\nx");
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "text: no line for training has anything to predict");
    write_string("text", "a line\n");
    config.data.validation_fraction = 0.5;
    assert_refused(&config, DATA_VALIDATION, STATUS_INVALID, "text: no line for validation has anything to predict");
    assert_true(descriptor_of("text") < 0);
    config.model.vocab_size = 255;
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "model.vocab_size: 255 is too small: data.kind text has 256 different tokens");
    config.model.vocab_size = 256;
    assert_takes_only_regular_files(&config, &config.data.path);
}

static void test_lines_that_change_later_are_noticed(void **state)
{
    (void)state;
    struct config config = lines_config(8);
    write_string("text", "abc\ndefg\n");
    struct data_set *set = open_split(&config, DATA_TRAIN);
    write_string("text", "ab\ncdefg\n");
    assert_unreadable(set, 0, STATUS_INVALID, "text: its lines are no longer those that it was opened with");
    assert_int_equal(truncate("text", 7), 0);
    assert_unreadable(set, 1, STATUS_ERROR,
                      "text: the file ended while it was being read: it held 9 bytes, now at most 7");
    data_close(set);
}

// Arrays of NumPy

static struct config npy_config(uint64_t classes)
{
    return (struct config){
        .model = {.kind = CONFIG_MODEL_MLP, .layers = {6, classes}, .layers_count = 2},
        .data = {.kind = CONFIG_DATA_NPY, .images = "x.npy", .labels = "y.npy", .pack = true},
    };
}

static void write_npy(const char *path, const char *header, const void *values, size_t bytes)
{
    uint8_t file[4096] = "\x93NUMPY\x01";
    size_t length = strlen(header);
    file[8] = (uint8_t)length;
    file[9] = (uint8_t)(length >> 8);
    memcpy(file + 10, header, length);
    memcpy(file + 10 + length, values, bytes);
    write_file(path, file, 10 + length + bytes);
}

#define FLOATS "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 2), }  \n"
#define LABELS "{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }\n"

static const float npy_inputs[12] = {0, 1, -2, 3.5f, 1e30f, -0.25f, 6, 7, 8, 9, 10, 11};
static const int64_t npy_labels[2] = {9, 0};

static void test_npy_reads_arrays(void **state)
{
    (void)state;
    struct config config = npy_config(10);
    float input[6];
    int32_t label;
    write_npy("x.npy", FLOATS, npy_inputs, sizeof(npy_inputs));
    write_npy("y.npy", LABELS, npy_labels, sizeof(npy_labels));
    struct data_set *set = open_split(&config, DATA_TRAIN);
    assert_int_equal(set->samples, 2);
    for (uint64_t i = 0; i < 2; i++) {
        read_sample(set, i, input, &label);
        assert_memory_equal(input, npy_inputs + 6 * i, sizeof(input));
        assert_int_equal(label, npy_labels[i]);
    }
    data_close(set);
    config.data.validation_images = "x.npy";
    config.data.validation_labels = "y.npy";
    data_close(open_split(&config, DATA_VALIDATION));
}

static void test_npy_reads_other_types(void **state)
{
    (void)state;
    struct config config = npy_config(300);
    const double wide[6] = {0, 1, -2, 0.1, 4, 5};
    const uint8_t bytes[6] = {0, 255, 51, 1, 2, 3};
    const uint16_t label_of_two[1] = {299};
    const int8_t label_of_one[1] = {7};
    float input[6];
    int32_t label;
    write_npy("x.npy", "{'shape': (1, 6), 'fortran_order': False, 'descr': '<f8'}\n", wide, sizeof(wide));
    write_npy("y.npy", "{'descr': '<u2', 'fortran_order': False, 'shape': (1,)}\n", label_of_two, 2);
    struct data_set *set = open_split(&config, DATA_TRAIN);
    read_sample(set, 0, input, &label);
    assert_true(input[3] == 0.1f && input[2] == -2 && label == 299);
    data_close(set);
    write_npy("x.npy", "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 6)}\n", bytes, sizeof(bytes));
    write_npy("y.npy", "{'descr': '|i1', 'fortran_order': False, 'shape': (1,)}\n", label_of_one, 1);
    set = open_split(&config, DATA_TRAIN);
    read_sample(set, 0, input, &label);
    assert_true(input[1] == 1 && input[2] == 51 / 255.0f && label == 7);
    data_close(set);
}

static void assert_npy_refused(const char *header, size_t bytes, const char *line)
{
    struct config config = npy_config(10);
    write_npy("x.npy", header, npy_inputs, bytes);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, line);
}

static void test_npy_refuses_what_is_wrong(void **state)
{
    (void)state;
    struct config config = npy_config(10);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "x.npy: there is no such file");
    write_file("x.npy", "short", 5);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "x.npy: is no .npy file: it is too short");
    write_file("x.npy", "\x93NUMPI\1\0\0\0    ", 14);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "x.npy: is no .npy file: it does not begin as one");
    write_file("x.npy", "\x93NUMPY\1\0\377\0    ", 14);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "x.npy: truncated: it ends within its header");
    assert_npy_refused("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 6)}", 48,
                       "x.npy: holds values of another type; allowed: little-endian float32, float64, and integers");
    assert_npy_refused("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 6)}", 48,
                       "x.npy: is in Fortran's order; allowed: C's (numpy.ascontiguousarray)");
    assert_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': 12}", 48,
                       "x.npy: is no .npy file: its header tells no shape");
    assert_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2, -6)}", 48,
                       "x.npy: is no .npy file: its header tells no shape");
    assert_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 6)}", 0,
                       "x.npy: absurd sizes, or no values");
    assert_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", 0,
                       "x.npy: absurd sizes, or no values");
    assert_npy_refused(FLOATS, 44, "x.npy: truncated: header promises 48 bytes of values, found 44");
    assert_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 6)}", 48,
                       "x.npy: trailing bytes: header promises 24 bytes of values, found 48");
    assert_npy_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (12,)}", 48,
                       "x.npy: holds no inputs: it has one dimension; allowed: samples first, then their values");
    assert_npy_refused("{'descr': '<i4', 'fortran_order': False, 'shape': (2, 6)}", 48,
                       "x.npy: holds integers; allowed for inputs: float32, float64, uint8");
    write_npy("x.npy", FLOATS, npy_inputs, sizeof(npy_inputs));
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "y.npy: there is no such file");
    write_npy("y.npy", "{'descr': '<i8', 'fortran_order': False, 'shape': (1,)}", npy_labels, 8);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "y.npy: 1 labels, but x.npy has 2 samples");
    write_npy("y.npy", FLOATS, npy_inputs, sizeof(npy_inputs));
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "y.npy: holds no labels: allowed is one dimension of integers");
    write_npy("y.npy", LABELS, (int64_t[]){0, -1}, 16);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "y.npy: label 1 is -1, but model.layers ends with 10 classes (labels count from 0)");
}

static void test_npy_files_that_change(void **state)
{
    (void)state;
    struct config config = npy_config(10);
    struct error error;
    float input[6];
    int32_t label;
    write_npy("x.npy", FLOATS, npy_inputs, sizeof(npy_inputs));
    write_npy("y.npy", LABELS, npy_labels, sizeof(npy_labels));
    struct data_set *set = open_split(&config, DATA_TRAIN);
    write_npy("x.npy", FLOATS, (float[12]){0, 0, 0, 0, 0, 0, 0, 0, NAN}, sizeof(npy_inputs));
    assert_int_equal(set->ops->read(set, 0, input, &label, &error), STATUS_OK);
    assert_int_equal(set->ops->read(set, 1, input, &label, &error), STATUS_INVALID);
    assert_string_equal(error.text, "x.npy: value 2 of sample 1 is not finite");
    assert_int_equal(truncate("x.npy", 100), 0);
    assert_int_equal(set->ops->read(set, 1, input, &label, &error), STATUS_ERROR);
    assert_non_null(strstr(error.text, "x.npy: the file ended while it was being read"));
    data_close(set);
}

// Token shards

enum { SHARD_MAGIC = 20240520, SHARD_HEADER = 512 }; // of uint16

static struct config tokens_config(uint64_t vocab_size)
{
    return (struct config){
        .model = {.kind = CONFIG_MODEL_GPT, .vocab_size = vocab_size, .seq_len = 4},
        .data = {.kind = CONFIG_DATA_TOKENS, .path = "*.bin", .pack = true},
    };
}

// Tokens first, first + 1, ...
static void write_shard_as(const char *path, uint32_t magic, uint32_t version, uint32_t promised, uint16_t first,
                           size_t length)
{
    uint16_t shard[SHARD_HEADER + 64] = {(uint16_t)magic, (uint16_t)(magic >> 16), (uint16_t)version, 0,
                                         (uint16_t)promised};
    for (size_t i = 0; i < length; i++) {
        shard[SHARD_HEADER + i] = (uint16_t)(first + i);
    }
    write_file(path, shard, (SHARD_HEADER + length) * sizeof(shard[0]));
}

static void write_shard(const char *path, uint16_t first, size_t length)
{
    write_shard_as(path, SHARD_MAGIC, 1, (uint32_t)length, first, length);
}

static void test_tokens_join_shards_in_the_order_of_names(void **state)
{
    (void)state;
    struct config config = tokens_config(50257);
    write_shard("c.bin", 50000, 9);
    write_shard("a.bin", 1000, 12);
    write_shard("b.bin", 0, 4); // too short for a window
    struct data_set *set = open_split(&config, DATA_TRAIN);
    assert_int_equal(set->shape.classes, 50257);
    assert_int_equal(set->samples, 4);
    assert_window(set, 0, 1000);
    assert_window(set, 1, 1004);
    assert_window(set, 2, 50000);
    assert_window(set, 3, 50004);
    data_close(set);
}

static void test_tokens_of_a_single_file(void **state)
{
    (void)state;
    struct config config = tokens_config(50257);
    config.data.path = "a.bin";
    write_shard("a.bin", 7, 5);
    write_shard("b.bin", 0, 50);
    struct data_set *set = open_split(&config, DATA_TRAIN);
    assert_int_equal(set->samples, 1);
    assert_window(set, 0, 7);
    data_close(set);
}

// 40 tokens in two shards; the border lies in the second.
static void test_tokens_keep_the_end_of_all_shards_for_validation(void **state)
{
    (void)state;
    struct config config = tokens_config(50257);
    config.data.validation_fraction = 0.25;
    write_shard("a.bin", 100, 20);
    write_shard("b.bin", 200, 20);
    struct data_set *train = open_split(&config, DATA_TRAIN), *validation = open_split(&config, DATA_VALIDATION);
    assert_int_equal(train->samples, 4 + 2);
    assert_window(train, 3, 112);
    assert_window(train, 4, 200);
    assert_window(train, 5, 204);
    assert_int_equal(validation->samples, 2);
    assert_window(validation, 0, 210);
    assert_window(validation, 1, 214);
    data_close(train);
    data_close(validation);
}

// As llm.c's scripts write them for Llama 3.
static void write_wide_shard(const char *path, uint32_t first, size_t length)
{
    uint32_t shard[256 + 64] = {20240801, 7, (uint32_t)length};
    for (size_t i = 0; i < length; i++) {
        shard[256 + i] = first + (uint32_t)i;
    }
    write_file(path, shard, (256 + length) * sizeof(shard[0]));
}

static void test_tokens_of_four_bytes(void **state)
{
    (void)state;
    struct config config = tokens_config(128256);
    write_wide_shard("a.bin", 128000, 9);
    write_wide_shard("b.bin", 65530, 9);
    struct data_set *set = open_split(&config, DATA_TRAIN);
    assert_int_equal(set->samples, 4);
    assert_window(set, 0, 128000);
    assert_window(set, 1, 128004);
    assert_window(set, 2, 65530);
    assert_window(set, 3, 65534);
    data_close(set);
    write_wide_shard("b.bin", 128250, 9);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "b.bin: token 6 is 128256, but model.vocab_size is 128256 (tokens count from 0)");
    write_shard("b.bin", 0, 9);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "b.bin: has tokens of 2 bytes, but a.bin of 4");
    write_wide_shard("b.bin", UINT32_MAX, 9); // goes on with 0, 1, ...
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "b.bin: token 0 is 4294967295, but model.vocab_size is 128256 (tokens count from 0)");
}

static void test_tokens_refuse_what_is_no_shard(void **state)
{
    (void)state;
    struct config config = tokens_config(50257);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "*.bin: there is no such file, and none that matches it");
    write_file("a.bin", "short", 5);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "a.bin: truncated: the header takes 1024 bytes, found 5 bytes");
    write_shard_as("a.bin", 20240521, 1, 9, 0, 9);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "a.bin: is no token shard: magic number 20240521, expected 20240520 or 20240801");
    write_shard_as("a.bin", SHARD_MAGIC, 2, 9, 0, 9);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "a.bin: version 2 of the format, expected 1");
    write_shard_as("a.bin", SHARD_MAGIC, 1, 9, 0, 8);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "a.bin: truncated: header promises 9 tokens (1042 bytes with the header), found 1040 bytes");
    write_shard_as("a.bin", SHARD_MAGIC, 1, 9, 0, 10);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "a.bin: trailing bytes: header promises 9 tokens (1042 bytes with the header), found 1044 bytes");
    write_shard("a.bin", 0, 4);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "*.bin: too short: 4 tokens for training, but a sample takes 5 (model.seq_len and one)");
    write_shard("a.bin", 0, 9);
    write_shard_as("b.bin", SHARD_MAGIC, 3, 9, 0, 9);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "b.bin: version 3 of the format, expected 1");
}

static void test_tokens_refuse_what_the_model_does_not_know(void **state)
{
    (void)state;
    struct config config = tokens_config(129);
    write_shard("a.bin", 0, 20);
    write_shard("b.bin", 100, 30);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "b.bin: token 29 is 129, but model.vocab_size is 129 (tokens count from 0)");
    config.model.vocab_size = 130;
    data_close(open_split(&config, DATA_TRAIN));
    write_shard("b.bin", 65534, 30); // goes on with 0, 1, ...
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "b.bin: token 0 is 65534, but model.vocab_size is 130 (tokens count from 0)");
    write_shard("b.bin", 100, 30);
    // Positions count from the shard's beginning, also where only its end is read.
    config.model.vocab_size = 129;
    config.data.validation_fraction = 0.2;
    data_close(open_split(&config, DATA_TRAIN));
    assert_refused(&config, DATA_VALIDATION, STATUS_INVALID,
                   "b.bin: token 29 is 129, but model.vocab_size is 129 (tokens count from 0)");
}

static void test_tokens_take_only_regular_files(void **state)
{
    (void)state;
    struct config config = tokens_config(50257);
    write_shard("a.bin", 0, 20);
    assert_takes_only_regular_files(&config, &config.data.path);
}

static void test_tokens_that_change_later_are_noticed(void **state)
{
    (void)state;
    struct config config = tokens_config(150);
    write_shard("a.bin", 0, 20);
    write_shard("b.bin", 100, 21);
    struct data_set *set = open_split(&config, DATA_TRAIN);
    write_shard("b.bin", 133, 21); // up to 153
    assert_window(set, 4 + 3, 145);
    assert_unreadable(set, 4 + 4, STATUS_INVALID,
                      "b.bin: token 17 is 150, but model.vocab_size is 150 (tokens count from 0)");
    write_shard("b.bin", 100, 9);
    assert_window(set, 4 + 1, 104);
    assert_unreadable(set, 4 + 2, STATUS_ERROR,
                      "b.bin: the file ended while it was being read: it held 1066 bytes, now at most 1042");
    assert_window(set, 3, 12);
    data_close(set);
}

// The token that is wrong lies beyond what the check at opening reads at once.
static void test_tokens_of_a_large_file_are_all_checked(void **state)
{
    (void)state;
    enum { COUNT = 100000 };
    static uint16_t shard[SHARD_HEADER + COUNT] = {(uint16_t)SHARD_MAGIC, SHARD_MAGIC >> 16, 1, 0,
                                                   (uint16_t)COUNT,       COUNT >> 16};
    struct config config = tokens_config(40000);
    for (size_t i = 0; i < COUNT; i++) {
        shard[SHARD_HEADER + i] = (uint16_t)(i % 40000);
    }
    write_file("a.bin", shard, sizeof(shard));
    data_close(open_split(&config, DATA_TRAIN));
    shard[SHARD_HEADER + COUNT - 1] = 40000;
    write_file("a.bin", shard, sizeof(shard));
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "a.bin: token 99999 is 40000, but model.vocab_size is 40000 (tokens count from 0)");
}

// Shards stay open, so the limit on open files goes up where a set needs it, and tells where it cannot.
static void test_tokens_of_more_shards_than_files_may_be_open(void **state)
{
    (void)state;
    struct config config = tokens_config(50257);
    struct rlimit before, narrow;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    narrow = before;
    narrow.rlim_cur = 30;
    for (int i = 0; i < 40; i++) {
        char path[32];
        snprintf(path, sizeof(path), "%02d.bin", i);
        write_shard(path, (uint16_t)(100 * i), 5);
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &narrow), 0);
    struct data_set *set = open_split(&config, DATA_TRAIN);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(set->samples, 40);
    assert_window(set, 39, 3900);
    data_close(set);
}

// Documents of token shards

// The tokens are letters, so that documents read like lines; '|' is the end-of-text token.
static struct config documents_config(uint64_t seq_len)
{
    struct config config = tokens_config(256);
    config.model.seq_len = seq_len;
    config.data.pack = false;
    config.data.end_of_text = '|';
    return config;
}

static void write_tokens(const char *path, const uint16_t *tokens, size_t length)
{
    const uint16_t header[SHARD_HEADER] = {(uint16_t)SHARD_MAGIC, SHARD_MAGIC >> 16,       1, 0,
                                           (uint16_t)length,      (uint16_t)(length >> 16)};
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(header, sizeof(header), 1, file), 1);
    assert_int_equal(fwrite(tokens, sizeof(tokens[0]), length, file), length);
    assert_int_equal(fclose(file), 0);
}

static void write_documents(const char *path, const char *text)
{
    uint16_t tokens[64];
    size_t length = strlen(text);
    for (size_t i = 0; i < length; i++) {
        tokens[i] = (uint8_t)text[i];
    }
    write_tokens(path, tokens, length);
}

// llm.c writes the end-of-text token before each document, others after it.
static void test_documents_are_samples(void **state)
{
    (void)state;
    struct config config = documents_config(8);
    static const char *const texts[] = {"|one|two words|three|", "one|two words|three|"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        write_documents("a.bin", texts[i]);
        assert_lines(&config, DATA_TRAIN, LINES("one|", "two words", "s|", "three|"));
    }
    assert_shape_of_bytes(&config);
}

static void test_the_last_document_may_have_no_end(void **state)
{
    (void)state;
    struct config config = documents_config(8);
    write_documents("a.bin", "|one|three");
    assert_lines(&config, DATA_TRAIN, LINES("one|", "three"));
    write_documents("a.bin", "|one|t"); // nothing follows t
    assert_lines(&config, DATA_TRAIN, LINES("one|"));
}

static void test_empty_documents_are_none(void **state)
{
    (void)state;
    struct config config = documents_config(8);
    write_documents("a.bin", "||a|||b\r||");
    assert_lines(&config, DATA_TRAIN, LINES("a|", "b\r|"));
}

static void test_long_documents_are_cut_side_by_side(void **state)
{
    (void)state;
    struct config config = documents_config(4);
    write_documents("a.bin", "|abcd|abcde|abcdefgh|abcdefghi|abcdefghijkl");
    assert_lines(&config, DATA_TRAIN,
                 LINES("abcd|", "abcde", "e|", "abcde", "efgh|", "abcde", "efghi", "i|", "abcde", "efghi", "ijkl"));
    config = documents_config(1);
    write_documents("a.bin", "|ab|c|");
    assert_lines(&config, DATA_TRAIN, LINES("ab", "b|", "c|"));
}

static void test_documents_cross_no_shard(void **state)
{
    (void)state;
    struct config config = documents_config(8);
    write_documents("a.bin", "|abc|de");
    write_documents("b.bin", "|");
    write_documents("c.bin", "fg|h");
    write_documents("d.bin", "ijk"); // without an end in a shard of its own
    assert_lines(&config, DATA_TRAIN, LINES("abc|", "de", "fg|", "ijk"));
}

// Shards with GPT-2's tokens, documents that begin, end and lie across where a shard is read in pieces.
enum { LARGE_SHARDS = 3, LARGE_SHARD = 100001, GPT2_END = 50256, GPT2_VOCAB = 50257, LARGE_LENGTH = 16 };

static uint16_t *make_large_shard(uint64_t *random_p)
{
    uint16_t *tokens = malloc(LARGE_SHARD * sizeof(*tokens));
    assert_non_null(tokens);
    for (size_t i = 0; i < LARGE_SHARD; i++) {
        *random_p = *random_p * UINT64_C(6364136223846793005) + 1;
        tokens[i] = (uint16_t)((*random_p >> 40) % 20 == 0 ? GPT2_END : (*random_p >> 45) % GPT2_END);
    }
    return tokens;
}

// Sample `index` holds `length` tokens from `tokens` on, and the token after each.
static void assert_tokens(const struct data_set *set, uint64_t index, const uint16_t *tokens, uint64_t length)
{
    int32_t inputs[LARGE_LENGTH], targets[LARGE_LENGTH];
    assert_true(index < set->samples);
    assert_int_equal(set->ops->length(set, index), length);
    read_sample(set, index, inputs, targets);
    for (uint64_t t = 0; t < LARGE_LENGTH; t++) {
        assert_int_equal(inputs[t], t < length ? tokens[t] : 0);
        assert_int_equal(targets[t], t < length ? tokens[t + 1] : KERNEL_TARGET_NONE);
    }
}

// Reads the shard token by token; answers how many samples it has.
static uint64_t assert_shard(const struct data_set *set, uint64_t first_sample, const uint16_t *tokens)
{
    uint64_t samples = 0, length = 0;
    for (size_t i = 0; i + 1 < LARGE_SHARD; i++) {
        length += tokens[i] != GPT2_END;
        if (length > 0 && (length == LARGE_LENGTH || tokens[i + 1] == GPT2_END || i + 2 == LARGE_SHARD)) {
            assert_tokens(set, first_sample + samples++, tokens + i + 1 - length, length);
            length = 0;
        }
    }
    return samples;
}

static void test_documents_of_large_shards(void **state)
{
    (void)state;
    struct config config = tokens_config(GPT2_VOCAB);
    config.model.seq_len = LARGE_LENGTH;
    config.data.pack = false;
    config.data.end_of_text = GPT2_END;
    uint16_t *shards[LARGE_SHARDS];
    uint64_t random = 7, samples = 0;
    for (size_t i = 0; i < LARGE_SHARDS; i++) {
        char path[] = {(char)('a' + i), '.', 'b', 'i', 'n', '\0'};
        shards[i] = make_large_shard(&random);
        write_tokens(path, shards[i], LARGE_SHARD);
    }
    struct data_set *set = open_split(&config, DATA_TRAIN);
    for (size_t i = 0; i < LARGE_SHARDS; i++) {
        samples += assert_shard(set, samples, shards[i]);
        free(shards[i]);
    }
    assert_int_equal(set->samples, samples);
    assert_permutation(set->samples, 1, 0);
    data_close(set);
}

// A document belongs to the split that its first token is in.
static void test_documents_keep_their_end_for_validation(void **state)
{
    (void)state;
    struct config config = documents_config(8);
    config.data.validation_fraction = 0.5;
    write_documents("a.bin", "|abc|defg|");
    write_documents("b.bin", "|hi|");
    assert_lines(&config, DATA_TRAIN, LINES("abc|", "defg|")); // of 14 tokens, the border is in defg
    assert_lines(&config, DATA_VALIDATION, LINES("hi|"));
    write_documents("b.bin", "|hi|jklm|no|"); // of 22, after h's |
    assert_lines(&config, DATA_TRAIN, LINES("abc|", "defg|"));
    assert_lines(&config, DATA_VALIDATION, LINES("hi|", "jklm|", "no|"));
    config.data.validation_path = "b.bin";
    config.data.path = "a.bin";
    assert_lines(&config, DATA_TRAIN, LINES("abc|", "defg|"));
    assert_lines(&config, DATA_VALIDATION, LINES("hi|", "jklm|", "no|"));
    config.data.validation_path = NULL;
    config.data.validation_fraction = 0;
    assert_null(open_split(&config, DATA_VALIDATION));
}

// Wherever the border is, each document is in one split.
static void test_documents_of_both_splits_are_all(void **state)
{
    (void)state;
    struct config config = documents_config(3);
    write_documents("a.bin", "|abcdefg||h|ij");
    write_documents("b.bin", "klmno|p|qrstuvw|");
    struct data_set *whole = open_split(&config, DATA_TRAIN);
    for (int percent = 30; percent <= 90; percent++) {
        config.data.validation_fraction = percent / 100.0;
        struct data_set *train = open_split(&config, DATA_TRAIN), *validation = open_split(&config, DATA_VALIDATION);
        assert_int_equal(train->samples + validation->samples, whole->samples);
        data_close(train);
        data_close(validation);
    }
    data_close(whole);
}

static void test_documents_refuse_shards_without_ends(void **state)
{
    (void)state;
    struct config config = documents_config(8);
    write_documents("a.bin", "abcd");
    write_documents("b.bin", "efgh");
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "*.bin: no token for training is 124: each shard would be one document; data.end_of_text must be "
                   "the token that sets documents apart, or data.pack true");
    config.data.end_of_text = 'b';
    assert_lines(&config, DATA_TRAIN, LINES("ab", "cd", "efgh"));
    assert_true(descriptor_of("") < 0);
}

static void test_documents_refuse_shards_that_give_no_sample(void **state)
{
    (void)state;
    struct config config = documents_config(8);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "*.bin: there is no such file, and none that matches it");
    write_file("a.bin", "short", 5);
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "a.bin: truncated: the header takes 1024 bytes, found 5 bytes");
    write_documents("a.bin", "");
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "*.bin: no document for training has anything to predict");
    write_documents("a.bin", "||x");
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID, "*.bin: no document for training has anything to predict");
    write_documents("a.bin", "|a document|");
    config.data.validation_fraction = 0.5;
    assert_refused(&config, DATA_VALIDATION, STATUS_INVALID,
                   "*.bin: no document for validation has anything to predict");
    config.model.vocab_size = 125;
    write_documents("a.bin", "|one|tw}|");
    assert_refused(&config, DATA_TRAIN, STATUS_INVALID,
                   "a.bin: token 7 is 125, but model.vocab_size is 125 (tokens count from 0)");
    assert_true(descriptor_of("") < 0);
}

static void test_documents_that_change_later_are_noticed(void **state)
{
    (void)state;
    struct config config = documents_config(8);
    write_documents("a.bin", "|abc|defg|");
    struct data_set *set = open_split(&config, DATA_TRAIN);
    write_documents("a.bin", "|ab|cdefg|");
    assert_unreadable(set, 0, STATUS_INVALID, "a.bin: its documents are no longer those that it was opened with");
    assert_int_equal(truncate("a.bin", 1024 + 16), 0);
    assert_unreadable(set, 1, STATUS_ERROR,
                      "a.bin: the file ended while it was being read: it held 1044 bytes, now at most 1040");
    data_close(set);
}

// Synthetic

static struct config synthetic_mlp_config(void)
{
    return (struct config){
        .model = {.kind = CONFIG_MODEL_MLP, .layers = {16, 8, 4}, .layers_count = 3},
        .train = {.seed = 5},
        .data = {.kind = CONFIG_DATA_SYNTHETIC, .samples = 2000, .validation_samples = 500, .pack = true},
    };
}

static struct config synthetic_gpt_config(void)
{
    return (struct config){
        .model = {.kind = CONFIG_MODEL_GPT, .vocab_size = 50, .seq_len = 64},
        .train = {.seed = 5},
        .data = {.kind = CONFIG_DATA_SYNTHETIC, .samples = 100, .pack = true},
    };
}

// SplitMix64, written once more.
static uint64_t draw(uint64_t key, uint64_t place)
{
    uint64_t z = key;
    for (uint64_t i = 0; i <= place; i++) {
        z += UINT64_C(0x9e3779b97f4a7c15);
    }
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void test_synthetic_values_follow_the_formula(void **state)
{
    (void)state;
    struct config config = synthetic_mlp_config();
    for (uint64_t split = DATA_TRAIN; split <= DATA_VALIDATION; split++) {
        struct data_set *set = open_split(&config, (enum data_split)split);
        uint64_t key = draw(draw(5, split), 123);
        uint64_t centre = draw(draw(5, 2), draw(key, 0) % 4);
        float values[16];
        int32_t target;
        read_sample(set, 123, values, &target);
        assert_int_equal(target, draw(key, 0) % 4);
        for (uint64_t j = 0; j < 16; j++) {
            double around = (double)(draw(centre, j) >> 40) / 16777216 - 0.5;
            double noise = (double)(draw(key, 1 + j) >> 40) / 16777216 - 0.5;
            assert_true((double)values[j] == around + noise);
        }
        data_close(set);
    }
}

static void test_synthetic_tokens_follow_the_formula(void **state)
{
    (void)state;
    struct config config = synthetic_gpt_config();
    struct data_set *set = open_split(&config, DATA_TRAIN);
    int32_t tokens[64], targets[64];
    uint64_t key = draw(draw(5, 0), 42), token = 0;
    read_sample(set, 42, tokens, targets);
    for (uint64_t t = 0; t <= 64; t++) {
        uint64_t number = draw(key, t);
        token = t == 0 || number % 8 == 0 ? (number / 8) % 50 : (5 * token + 3) % 50;
        assert_true(t == 64 || (uint64_t)tokens[t] == token);
        assert_true(t == 0 || (uint64_t)targets[t - 1] == token);
    }
    data_close(set);
}

static float squared_distance(const float *a, const float *b, size_t count)
{
    float sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    }
    return sum;
}

// The means of the training samples classify the validation samples: what is learned from one helps with the other.
static void test_synthetic_classes_can_be_learned(void **state)
{
    (void)state;
    struct config config = synthetic_mlp_config();
    struct data_set *train = open_split(&config, DATA_TRAIN), *validation = open_split(&config, DATA_VALIDATION);
    float means[4][16] = {0}, values[16];
    unsigned counts[4] = {0}, correct = 0;
    int32_t target;
    for (uint64_t i = 0; i < train->samples; i++) {
        read_sample(train, i, values, &target);
        counts[target]++;
        for (size_t j = 0; j < 16; j++) {
            means[target][j] += (values[j] - means[target][j]) / (float)counts[target];
        }
    }
    for (uint64_t i = 0; i < validation->samples; i++) {
        read_sample(validation, i, values, &target);
        int32_t nearest = 0;
        for (int32_t label = 1; label < 4; label++) {
            if (squared_distance(values, means[label], 16) < squared_distance(values, means[nearest], 16)) {
                nearest = label;
            }
        }
        correct += nearest == target;
    }
    assert_true(correct > 450);
    for (size_t label = 0; label < 4; label++) {
        assert_in_range(counts[label], 400, 600);
    }
    data_close(train);
    data_close(validation);
}

static void test_synthetic_splits_and_seeds_differ(void **state)
{
    (void)state;
    struct config config = synthetic_mlp_config();
    struct data_set *train = open_split(&config, DATA_TRAIN), *validation = open_split(&config, DATA_VALIDATION);
    config.train.seed = 6;
    struct data_set *other = open_split(&config, DATA_TRAIN);
    float a[16], b[16], c[16];
    int32_t target;
    read_sample(train, 0, a, &target);
    read_sample(validation, 0, b, &target);
    read_sample(other, 0, c, &target);
    assert_memory_not_equal(a, b, sizeof(a));
    assert_memory_not_equal(a, c, sizeof(a));
    assert_int_equal(train->samples, 2000);
    assert_int_equal(validation->samples, 500);
    data_close(train);
    data_close(validation);
    data_close(other);
}

static void test_synthetic_without_validation_has_no_set(void **state)
{
    (void)state;
    struct config config = synthetic_gpt_config();
    assert_null(open_split(&config, DATA_VALIDATION));
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, enter_folder, leave_folder)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_is_a_permutation),
        cmocka_unit_test(test_epochs_and_seeds_have_orders_of_their_own),
        cmocka_unit_test(test_order_without_shuffling_is_the_sets_own),
        cmocka_unit_test(test_order_of_a_huge_set_stays_inside),
        cmocka_unit_test(test_order_has_no_favourite_places),
        cmocka_unit_test(test_small_sets_take_every_order),
        IN_FOLDER(test_npy_reads_arrays),
        IN_FOLDER(test_npy_reads_other_types),
        IN_FOLDER(test_npy_refuses_what_is_wrong),
        IN_FOLDER(test_npy_files_that_change),
        IN_FOLDER(test_idx_reads_plain_files),
        IN_FOLDER(test_idx_reads_gzip_as_validation),
        IN_FOLDER(test_idx_reads_vectors),
        IN_FOLDER(test_idx_without_validation_has_no_set),
        IN_FOLDER(test_idx_refuses_missing_files),
        IN_FOLDER(test_idx_takes_only_regular_files),
        IN_FOLDER(test_idx_reads_large_files),
        IN_FOLDER(test_idx_takes_no_memory_for_a_promise),
        IN_FOLDER(test_idx_refuses_another_magic_number),
        IN_FOLDER(test_idx_refuses_truncated_files),
        IN_FOLDER(test_idx_refuses_trailing_bytes),
        IN_FOLDER(test_idx_refuses_damaged_gzip),
        IN_FOLDER(test_idx_refuses_counts_that_differ),
        IN_FOLDER(test_idx_refuses_a_label_beyond_the_classes),
        IN_FOLDER(test_idx_refuses_absurd_sizes),
        IN_FOLDER(test_images_must_fit_the_model),
        IN_FOLDER(test_text_is_cut_into_windows),
        IN_FOLDER(test_text_keeps_its_end_for_validation),
        IN_FOLDER(test_text_of_validation_may_be_a_file_of_its_own),
        IN_FOLDER(test_text_is_open_until_it_is_closed),
        IN_FOLDER(test_text_takes_only_regular_files),
        IN_FOLDER(test_text_that_is_truncated_later_is_noticed),
        IN_FOLDER(test_text_that_cannot_be_read_says_why),
        IN_FOLDER(test_text_without_validation_has_no_set),
        IN_FOLDER(test_text_refuses_files_that_give_no_sample),
        IN_FOLDER(test_text_needs_a_vocabulary_of_bytes),
        IN_FOLDER(test_lines_are_samples),
        IN_FOLDER(test_empty_lines_are_none),
        IN_FOLDER(test_lines_may_end_in_carriage_returns),
        IN_FOLDER(test_the_last_line_may_have_no_newline),
        IN_FOLDER(test_long_lines_are_cut_side_by_side),
        IN_FOLDER(test_lines_of_a_large_file),
        IN_FOLDER(test_lines_keep_their_end_for_validation),
        IN_FOLDER(test_lines_refuse_files_that_give_no_sample),
        IN_FOLDER(test_lines_that_change_later_are_noticed),
        IN_FOLDER(test_tokens_join_shards_in_the_order_of_names),
        IN_FOLDER(test_tokens_of_a_single_file),
        IN_FOLDER(test_tokens_keep_the_end_of_all_shards_for_validation),
        IN_FOLDER(test_tokens_of_four_bytes),
        IN_FOLDER(test_tokens_refuse_what_is_no_shard),
        IN_FOLDER(test_tokens_refuse_what_the_model_does_not_know),
        IN_FOLDER(test_tokens_take_only_regular_files),
        IN_FOLDER(test_tokens_that_change_later_are_noticed),
        IN_FOLDER(test_tokens_of_a_large_file_are_all_checked),
        IN_FOLDER(test_tokens_of_more_shards_than_files_may_be_open),
        IN_FOLDER(test_documents_are_samples),
        IN_FOLDER(test_the_last_document_may_have_no_end),
        IN_FOLDER(test_empty_documents_are_none),
        IN_FOLDER(test_long_documents_are_cut_side_by_side),
        IN_FOLDER(test_documents_cross_no_shard),
        IN_FOLDER(test_documents_of_large_shards),
        IN_FOLDER(test_documents_keep_their_end_for_validation),
        IN_FOLDER(test_documents_of_both_splits_are_all),
        IN_FOLDER(test_documents_refuse_shards_without_ends),
        IN_FOLDER(test_documents_refuse_shards_that_give_no_sample),
        IN_FOLDER(test_documents_that_change_later_are_noticed),
        cmocka_unit_test(test_synthetic_values_follow_the_formula),
        cmocka_unit_test(test_synthetic_tokens_follow_the_formula),
        cmocka_unit_test(test_synthetic_classes_can_be_learned),
        cmocka_unit_test(test_synthetic_splits_and_seeds_differ),
        cmocka_unit_test(test_synthetic_without_validation_has_no_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
