import CShims
import Glibc

/// The local socket, and who may do what there.
enum ControlSocket {
  static let path = InstanceLock.directory + "/bpftune.sock"
  /// Its members may read. It need not exist.
  static let groupName = "bpftune"

  /// A socket to listen on; only the holder of the instance lock may call it.
  /// Root connects, and the group where there is one.
  static func open(group: gid_t?) throws -> Int32 {
    let fd = bpftune_local_socket(path, group ?? gid_t.max, group == nil ? 0o600 : 0o660)
    guard fd >= 0 else {
      throw Failure("cannot create \(path): \(errorText())", exit: .failure)
    }
    return fd
  }

  static func group() -> gid_t? {
    let group = bpftune_group(groupName)
    return group == gid_t.max ? nil : group
  }
}

/// Who is at the other end, as the kernel says.
struct Peer: Sendable {
  enum Rights: Comparable {
    case none, read, change
  }

  let rights: Rights
  let process: pid_t
  let user: uid_t

  /// On the local socket; else it is about metrics only.
  var isLocal: Bool { process != 0 || user != uid_t.max }

  /// Someone who reads metrics over the network.
  static let scraper = Peer(rights: .read, process: 0, user: uid_t.max)

  private init(rights: Rights, process: pid_t, user: uid_t) {
    self.rights = rights
    self.process = process
    self.user = user
  }

  /// Nil when the kernel does not say.
  init?(descriptor: Int32, group: gid_t?) {
    var inGroup = false
    var user = uid_t.max
    var process: pid_t = 0
    guard bpftune_peer(descriptor, group ?? gid_t.max, &user, &process, &inGroup) == 0 else {
      return nil
    }
    self.init(
      rights: user == 0 ? .change : inGroup ? .read : .none, process: process, user: user)
  }
}
