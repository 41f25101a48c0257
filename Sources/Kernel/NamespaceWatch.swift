/// How the kernel tells of network namespaces that come into being. There is
/// no event that all kernels have for their end; a sweep finds that out.
public enum NamespaceWatch {
  public static let signals = [
    Signal(
      "namespace created by clone",
      [
        Hook(
          .section(.tracepoint), "tp_btf/task_newtask", object: "netns_watch",
          program: "netns_watch_clone"),
        Hook(.poll(every: .seconds(10)), "sweep of /proc"),
      ]),
    Signal(
      "namespace created by unshare",
      [
        Hook(
          .tracepoint(category: "syscalls", name: "sys_exit_unshare"),
          "tracepoint/syscalls/sys_exit_unshare", object: "netns_watch",
          program: "netns_watch_unshare"),
        Hook(.poll(every: .seconds(10)), "sweep of /proc"),
      ]),
    Signal("namespace ended", [Hook(.poll(every: .seconds(60)), "sweep of /proc")]),
  ]

  /// `enum netns_watch_scenario` in bpf/netns_watch.bpf.c.
  public static let created: UInt16 = 1
}
