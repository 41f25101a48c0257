/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What an iterator over TCP sockets is given. */
#ifndef TCP_ITER_H
#define TCP_ITER_H

/* include/linux/bpf.h */
struct bpf_iter_meta;
struct sock_common;
struct bpf_iter__tcp {
	union {
		struct bpf_iter_meta *meta;
		__u64 aligned_meta;
	};
	union {
		struct sock_common *sk_common;
		__u64 aligned_sk;
	};
	__u32 uid;
};

#endif
