/* A stand-in for NVIDIA's libnvidia-ml.so.1, for machines without a GPU. It does what the text file beside it
 * says (its own path with ".txt" behind), which is read again at every call, so that a test can change the
 * machine while a worker runs.
 *
 * A line is DEVICE KEY VALUE. DEVICE is "all", a GPU's index, or GPU.PART for a MIG device. Keys:
 *   all count N
 *   N uuid|name TEXT      N minor|memory_total|memory_used|utilization|power_mw|temperature|ecc NUMBER
 *   N process PID         any number of them
 *   N xid CODE            any number of them; each is told once
 *   N mig MOST            the GPU is split; the parts N.0 to N.(MOST - 1) that have a uuid are there
 *   N.M gi|ci NUMBER
 *   WHICH error FUNCTION CODE     FUNCTION may be "*"
 *   all hang FUNCTION     the call does not come back while this line stands
 * A figure that is not given is not supported. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10, TEXT_BYTES = 1 << 16 };

typedef int nvmlReturn_t;
typedef void *nvmlDevice_t;
typedef unsigned long long u64;

/* A handle is (GPU + 1) * 1000, and part + 1 more for a MIG device. */
static int gpu_of(nvmlDevice_t device) { return (int)((size_t)device / 1000) - 1; }
static int part_of(nvmlDevice_t device) { return (int)((size_t)device % 1000) - 1; }
static nvmlDevice_t handle(int gpu, int part) { return (nvmlDevice_t)(size_t)((gpu + 1) * 1000 + part + 1); }

static void name_of(nvmlDevice_t device, char name[32]) {
    if (device == NULL) strcpy(name, "all");
    else if (part_of(device) < 0) snprintf(name, 32, "%d", gpu_of(device));
    else snprintf(name, 32, "%d.%d", gpu_of(device), part_of(device));
}

static void read_machine(char *text) {
    Dl_info self;
    char path[4096];
    text[0] = 0;
    if (!dladdr((void *)read_machine, &self)) return;
    snprintf(path, sizeof path, "%s.txt", self.dli_fname);
    FILE *file = fopen(path, "r");
    if (file == NULL) return;
    text[fread(text, 1, TEXT_BYTES - 1, file)] = 0;
    fclose(file);
}

/* The nth value of a key; 0 when there is none. */
static int nth(nvmlDevice_t device, const char *key, int n, char value[256]) {
    char text[TEXT_BYTES], who[32], start[96];
    read_machine(text);
    name_of(device, who);
    snprintf(start, sizeof start, "%s %s ", who, key);
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        if (strncmp(line, start, strlen(start)) == 0 && n-- == 0) {
            snprintf(value, 256, "%s", line + strlen(start));
            return 1;
        }
    }
    return 0;
}

static int error_for(nvmlDevice_t device, const char *function) {
    char value[256], named[128];
    int code;
    for (int n = 0; nth(device, "error", n, value); n++)
        if (sscanf(value, "%127s %d", named, &code) == 2 && (!strcmp(named, "*") || !strcmp(named, function)))
            return code;
    return SUCCESS;
}

static int hangs(const char *function) {
    char value[256];
    for (int n = 0; nth(NULL, "hang", n, value); n++)
        if (!strcmp(value, "*") || !strcmp(value, function)) return 1;
    return 0;
}

static int enter(nvmlDevice_t device, const char *function) {
    while (hangs(function)) usleep(2000);
    int code = error_for(NULL, function);
    if (code == SUCCESS && device != NULL) code = error_for(device, function);
    if (code == SUCCESS && device != NULL && part_of(device) >= 0)
        code = error_for(handle(gpu_of(device), -1), function);
    return code;
}

static nvmlReturn_t number(nvmlDevice_t device, const char *key, u64 *out) {
    char value[256];
    if (!nth(device, key, 0, value)) return NOT_SUPPORTED;
    *out = strtoull(value, NULL, 10);
    return SUCCESS;
}

static nvmlReturn_t small(nvmlDevice_t device, const char *key, unsigned *out) {
    u64 wide;
    nvmlReturn_t code = number(device, key, &wide);
    if (code == SUCCESS) *out = (unsigned)wide;
    return code;
}

static nvmlReturn_t words(nvmlDevice_t device, const char *key, char *out, unsigned size) {
    char value[256];
    if (!nth(device, key, 0, value)) return NOT_FOUND;
    snprintf(out, size, "%s", value);
    return SUCCESS;
}

#define ENTER(device)                                                                                                 \
    do {                                                                                                              \
        nvmlReturn_t entered = enter(device, __func__);                                                               \
        if (entered != SUCCESS) return entered;                                                                       \
    } while (0)

nvmlReturn_t nvmlInit_v2(void) {
    ENTER(NULL);
    return SUCCESS;
}

nvmlReturn_t nvmlShutdown(void) { return SUCCESS; }

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned size) {
    snprintf(version, size, "550.54.15");
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) {
    ENTER(NULL);
    return small(NULL, "count", count);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device) {
    ENTER(handle((int)index, -1));
    *device = handle((int)index, -1);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned size) {
    ENTER(device);
    return words(device, "uuid", uuid, size);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned size) {
    ENTER(device);
    return words(device, "name", name, size);
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned *minor) {
    ENTER(device);
    return small(device, "minor", minor);
}

typedef struct {
    unsigned version;
    u64 total, reserved, free, used;
} nvmlMemory_v2_t;

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    ENTER(device);
    memory->used = memory->reserved = 0;
    number(device, "memory_used", &memory->used);
    nvmlReturn_t code = number(device, "memory_total", &memory->total);
    memory->free = memory->total - memory->used;
    return code;
}

typedef struct {
    unsigned gpu, memory;
} nvmlUtilization_t;

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization) {
    ENTER(device);
    utilization->memory = 0;
    return small(device, "utilization", &utilization->gpu);
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *milliwatts) {
    ENTER(device);
    return small(device, "power_mw", milliwatts);
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned *celsius) {
    ENTER(device);
    return sensor == 0 ? small(device, "temperature", celsius) : NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, int type, int counter, u64 *count) {
    ENTER(device);
    return type == 1 && counter == 0 ? number(device, "ecc", count) : NOT_SUPPORTED;
}

typedef struct {
    unsigned pid;
    u64 used;
    unsigned gpu_instance, compute_instance;
} nvmlProcessInfo_t;

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *infos) {
    ENTER(device);
    char value[256];
    unsigned found = 0, room = *count;
    for (; nth(device, "process", (int)found, value); found++) {
        if (infos == NULL || found >= room) continue;
        infos[found] = (nvmlProcessInfo_t){(unsigned)strtoul(value, NULL, 10), 1 << 20, ~0u, ~0u};
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending) {
    ENTER(device);
    unsigned most = 0;
    *current = *pending = small(device, "mig", &most) == SUCCESS;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned *count) {
    ENTER(device);
    return small(device, "mig", count);
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned index, nvmlDevice_t *part) {
    ENTER(device);
    char value[256];
    *part = handle(gpu_of(device), (int)index);
    return nth(*part, "uuid", 0, value) ? SUCCESS : NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned *id) {
    ENTER(device);
    return small(device, "gi", id);
}

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned *id) {
    ENTER(device);
    return small(device, "ci", id);
}

typedef struct {
    nvmlDevice_t device;
    int told;
} *nvmlEventSet_t;

typedef struct {
    nvmlDevice_t device;
    u64 type, data;
    unsigned gpu_instance, compute_instance;
} nvmlEventData_t;

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) {
    *set = calloc(1, sizeof **set);
    return SUCCESS;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    free(set);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, u64 types, nvmlEventSet_t set) {
    ENTER(device);
    set->device = device;
    return types == 8 ? SUCCESS : NOT_SUPPORTED;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms) {
    ENTER(set->device);
    char value[256];
    (void)timeout_ms;
    if (!nth(set->device, "xid", set->told, value)) return TIMEOUT;
    set->told++;
    *data = (nvmlEventData_t){set->device, 8, strtoull(value, NULL, 10), ~0u, ~0u};
    return SUCCESS;
}
