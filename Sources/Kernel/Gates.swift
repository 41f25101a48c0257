import CShims

/// Where programs that act by themselves may not: the tuners that an administrator
/// has disabled, by namespace, and namespaces that are held out (bpf/gate.h).
public final class Gates: Sendable {
  private let map: BPFMap
  /// The numbers of the tuners' events, by name.
  private let sources: [String: UInt16]

  init(_ map: BPFMap, sources: [String: UInt16]) {
    self.map = map
    self.sources = sources
  }

  /// Stops the tuner's programs in a namespace; nil: in every one.
  public func close(_ tuner: String, in namespace: NamespaceID?) throws(BPFObject.Failure) {
    guard let key = key(tuner, namespace) else { return }
    try map.set(key: key, to: UInt32(1))
  }

  /// Lets them act again there; nil: where they are not stopped by themselves.
  public func open(_ tuner: String, in namespace: NamespaceID?) {
    if let key = key(tuner, namespace) { map.remove(key: key) }
  }

  /// The namespace has ended: lets go of what was entered for it.
  public func forget(_ namespace: NamespaceID) {
    for tuner in sources.keys {
      if let key = key(tuner, namespace) { map.remove(key: key) }
    }
  }

  /// `struct gate_key`.
  private func key(_ tuner: String, _ namespace: NamespaceID?) -> [UInt8]? {
    guard let source = sources[tuner] else { return nil }
    return withUnsafeBytes(of: namespace?.cookie ?? 0) { Array($0) }
      + withUnsafeBytes(of: namespace?.inode ?? 0) { Array($0) }
      + withUnsafeBytes(of: UInt32(source)) { Array($0) }
  }
}
