/// A network namespace, for as long as it lives.
///
/// The inode number is what people see (`/proc/self/ns/net`), but the kernel
/// gives it to another namespace soon after; the cookie is never used again.
public struct NamespaceID: Hashable, Sendable, CustomStringConvertible {
  /// `net_cookie` of `struct net` (include/net/net_namespace.h); 0 on kernels
  /// that do not tell it to user space (before 5.14).
  public let cookie: UInt64
  /// Inode number of the namespace in nsfs.
  public let inode: UInt32

  public init(cookie: UInt64, inode: UInt32) {
    self.cookie = cookie
    self.inode = inode
  }

  public var description: String { "netns \(inode)" }
}
