//! What an image is made of, for people's tools: a software bill of materials in SPDX 2.3 (JSON), from the status of dpkg.
//! Pure, and the same for the same packages: its time is that of the newest file, its name is of its content.
//!
//! Field names and the meaning of `NOASSERTION`: SPDX specification 2.3, clauses 6, 7 and 11. Package addresses:
//! `pkg:deb` of the package URL types.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use stoke_api::Digest;

use crate::store::Package;

/// What is nowhere said in a form that a program could vouch for.
const UNKNOWN: &str = "NOASSERTION";
const SECONDS_A_DAY: u64 = 86_400;

/// A package as its system's database describes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Described {
    /// What it is.
    pub package: Package,
    /// The source package that it was built from, if that has another name.
    pub source: Option<String>,
    /// Who maintains it: `Name <address>`.
    pub maintainer: Option<String>,
    /// Its project's page.
    pub homepage: Option<String>,
}

/// The packages that are installed, by dpkg's status file, sorted.
pub fn installed(status: &str) -> Vec<Described> {
    let mut packages: Vec<_> = status.split("\n\n").filter_map(described).collect();
    packages.sort();
    packages
}

fn described(stanza: &str) -> Option<Described> {
    let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim);
    let package = Package {
        name: field("Package")?.to_owned(),
        version: field("Version")?.to_owned(),
        architecture: field("Architecture")?.to_owned(),
    };
    (field("Status")? == "install ok installed").then_some(())?;
    // A version in brackets follows if it differs.
    let source = field("Source").and_then(|source| source.split(' ').next()).map(str::to_owned);
    let maintainer = field("Maintainer").map(str::to_owned);
    Some(Described { package, source, maintainer, homepage: field("Homepage").map(str::to_owned) })
}

/// What the bill is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The image: `NAMESPACE/NAME`.
    pub name: &'a str,
    /// Its `os-release`.
    pub os_release: &'a [u8],
    /// The time of its newest file, in seconds since 1970.
    pub time: u64,
}

/// The bill of an image as SPDX 2.3 in JSON.
pub fn spdx(subject: &Subject<'_>, packages: &[Described]) -> Vec<u8> {
    let system = System::of(subject.os_release);
    let listed: Vec<_> = packages.iter().map(|package| system.package(package)).collect();
    let mut all = vec![json!({
        "SPDXID": "SPDXRef-Image",
        "name": subject.name,
        "versionInfo": system.version,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    })];
    let contains = |package: &Value| {
        let part = package.get("SPDXID");
        json!({"spdxElementId": "SPDXRef-Image", "relationshipType": "CONTAINS", "relatedSpdxElement": part})
    };
    let describes = json!({
        "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-Image"
    });
    let relationships: Vec<_> = std::iter::once(describes).chain(listed.iter().map(contains)).collect();
    all.extend(listed);
    let content = Digest(Sha256::digest(json!([all, relationships, subject.time]).to_string()).into());
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject.name,
        "documentNamespace": format!("https://stokehold.dev/spdx/{}/{}", subject.name, content.hex()),
        "creationInfo": {"created": rfc3339(subject.time), "creators": ["Tool: stokehold"]},
        "packages": all,
        "relationships": relationships,
    });
    serde_json::to_vec_pretty(&document).unwrap_or_default()
}

/// The distribution, as package addresses name it.
struct System {
    id: String,
    codename: Option<String>,
    version: String,
}

impl System {
    fn of(os_release: &[u8]) -> Self {
        let text = String::from_utf8_lossy(os_release);
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.map(|value| value.trim().trim_matches('"').to_owned()).filter(|value| !value.is_empty())
        };
        Self {
            id: field("ID").unwrap_or_else(|| "debian".to_owned()),
            codename: field("VERSION_CODENAME"),
            version: field("VERSION_ID").unwrap_or_else(|| UNKNOWN.to_owned()),
        }
    }

    fn package(&self, described: &Described) -> Value {
        let Described { package, maintainer, homepage, .. } = described;
        json!({
            "SPDXID": format!("SPDXRef-Package-{}-{}", identifier(&package.name), identifier(&package.architecture)),
            "name": package.name,
            "versionInfo": package.version,
            "supplier": maintainer.as_deref().map_or_else(|| UNKNOWN.to_owned(), supplier),
            "homepage": homepage.as_deref().unwrap_or(UNKNOWN),
            "downloadLocation": UNKNOWN,
            "filesAnalyzed": false,
            "licenseConcluded": UNKNOWN,
            "licenseDeclared": UNKNOWN,
            "copyrightText": UNKNOWN,
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": self.address(described),
            }],
        })
    }

    /// `pkg:deb/debian/bash@5.2.15-2%2Bb7?arch=amd64&distro=bookworm&upstream=bash`
    fn address(&self, described: &Described) -> String {
        let Package { name, version, architecture } = &described.package;
        let (name, version) = (encoded(name), encoded(version));
        let mut address = format!("pkg:deb/{}/{name}@{version}?arch={}", encoded(&self.id), encoded(architecture));
        for (key, value) in [("distro", &self.codename), ("upstream", &described.source)] {
            address.extend(value.iter().map(|value| format!("&{key}={}", encoded(value))));
        }
        address
    }
}

/// Letters, digits, `.` and `-` are all that an identifier may have (SPDX 2.3, 7.2): others by their number.
fn identifier(text: &str) -> String {
    let part = |c: char| {
        if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c.to_string() } else { format!(".x{:x}.", u32::from(c)) }
    };
    text.chars().map(part).collect()
}

/// As package addresses are written: all but unreserved characters by their number.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// `Organization: NAME (ADDRESS)`: Debian's maintainers are teams or people, and which is not said.
fn supplier(maintainer: &str) -> String {
    match maintainer.split_once('<').map(|(name, address)| (name.trim(), address.trim_end_matches('>').trim())) {
        Some((name, address)) if !name.is_empty() => format!("Organization: {name} ({address})"),
        _ => format!("Organization: {}", maintainer.trim()),
    }
}

/// Seconds since 1970 as `2026-11-21T15:00:00Z`. Days to dates as in H. Hinnant's `civil_from_days`: years begin in March, so
/// that the leap day is a year's last.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / SECONDS_A_DAY + 719_468, seconds % SECONDS_A_DAY);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: libstdc++6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:12.2.0-14+x~y\n\
                          Source: gcc-12 (12.2.0-14)\nMaintainer: GCC Maintainers <gcc@example.org>\n\
                          Homepage: http://gcc.gnu.org/\nDescription: x\n Homepage: no\n\n\
                          Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 2\n\n\
                          Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n";

    fn bill(time: u64) -> Value {
        let os_release = b"ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";
        let subject = Subject { name: "default/node", os_release, time };
        serde_json::from_slice(&spdx(&subject, &installed(STATUS))).unwrap()
    }

    #[test]
    fn packages_that_are_removed_are_not_installed() {
        let names: Vec<_> = installed(STATUS).into_iter().map(|described| described.package.name).collect();
        assert_eq!(names, ["a", "libstdc++6"]);
    }

    #[test]
    fn a_package_is_addressed_as_scanners_expect() {
        let bill = bill(0);
        let package = &bill["packages"][2];
        let address = "pkg:deb/debian/libstdc%2B%2B6@1%3A12.2.0-14%2Bx~y?arch=amd64&distro=bookworm&upstream=gcc-12";
        assert_eq!(package["externalRefs"][0]["referenceLocator"], address);
        assert_eq!(package["supplier"], "Organization: GCC Maintainers (gcc@example.org)");
        assert_eq!(package["SPDXID"], "SPDXRef-Package-libstdc.x2b..x2b.6-amd64");
        assert_eq!(package["homepage"], "http://gcc.gnu.org/");
        assert_eq!(bill["packages"][1]["homepage"], UNKNOWN);
    }

    #[test]
    fn every_part_is_related_and_identifiers_are_unique() {
        let bill = bill(5);
        let ids: std::collections::BTreeSet<_> =
            bill["packages"].as_array().unwrap().iter().map(|package| package["SPDXID"].to_string()).collect();
        assert_eq!(ids.len(), 3);
        let related = bill["relationships"].as_array().unwrap();
        assert!(related.iter().all(|one| ids.contains(&one["relatedSpdxElement"].to_string())));
        assert_eq!(related.len(), 3);
    }

    #[test]
    fn the_same_packages_make_the_same_bill_and_others_another_name() {
        assert_eq!(bill(5), bill(5));
        assert_ne!(bill(5)["documentNamespace"], bill(6)["documentNamespace"]);
    }

    #[test]
    fn days_are_dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_273_445), "2026-11-21T15:04:05Z");
    }
}
