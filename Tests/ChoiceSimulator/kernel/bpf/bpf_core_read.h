/* SPDX-License-Identifier: Apache-2.0 */
/* Fields of structures that are the program's own. */
#define bpf_core_field_exists(field) 1
#define READ_ONE(pointer, a) ((pointer)->a)
#define READ_TWO(pointer, a, b) ((pointer)->a->b)
#define READ_AS(_1, _2, _3, name, ...) name
#define BPF_CORE_READ(...) READ_AS(__VA_ARGS__, READ_TWO, READ_ONE, )(__VA_ARGS__)
