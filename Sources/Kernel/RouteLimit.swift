import CShims

/// Whether the kernel limits the IPv6 routes that it holds.
public enum RouteLimit {
  /// `dst_alloc` in net/core/dst.c refuses a route when the garbage collection of
  /// its family says so (`gc` of `struct dst_ops` returns a number). Since 6.3 it
  /// says nothing, and `net.ipv6.route.max_size` is read by nothing; this change
  /// is in many older kernels, too, so that their version does not tell.
  public static let exists = bpftune_bpf_member_returns("dst_ops", "gc") == 1
}
