//! `resolvConf`: name servers read from a file in the form of /etc/resolv.conf.

use crate::cni::result::Dns;

/// More than any such file.
pub(crate) const MAX: u64 = 1024 * 1024;

/// Reads the settings that a CNI result can carry and ignores all other lines.
pub fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim_start) {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.nameservers.extend(words.next()),
            Some("domain") => dns.domain = words.next().unwrap_or_default(),
            Some("search") => dns.search.extend(words),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_unknown_lines_are_passed_over() {
        let dns = parse(
            "# nameserver 9.9.9.9\n; domain x\nnameserver 10.0.0.10\nnameserver fd00::10\n\
             sortlist 10.0.0.0\ndomain cluster.local\nsearch a.local b.local\noptions ndots:5 edns0\n",
        );
        assert_eq!(dns.nameservers, ["10.0.0.10", "fd00::10"]);
        assert_eq!(dns.domain, "cluster.local");
        assert_eq!(dns.search, ["a.local", "b.local"]);
        assert_eq!(dns.options, ["ndots:5", "edns0"]);
    }
}
