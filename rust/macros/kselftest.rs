// SPDX-License-Identifier: GPL-2.0

//! Procedural macro to make kselftest cases using a user-space like syntax.

use proc_macro2::TokenStream;
use quote::{
    quote,
    ToTokens, //
};
use syn::{
    ext::IdentExt,
    punctuated::Punctuated,
    Attribute,
    Error,
    Expr,
    Ident,
    Item,
    ItemFn,
    ItemMod,
    Lit,
    Meta,
    MetaList,
    MetaNameValue,
    Path,
    Result,
    Token, //
};

use crate::helpers::gather_cfg_attrs;

/// Attributes of the test harness of user space that have no meaning here.
const UNKNOWN: [&str; 2] = ["ignore", "should_panic"];

pub(crate) fn kselftests(args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    if !args.is_empty() {
        return Err(Error::new_spanned(
            args,
            "`#[kselftests]` takes no arguments; `kselftest_module!` takes name and parameters",
        ));
    }
    let mut module = match syn::parse2::<Item>(item)? {
        Item::Mod(module) => module,
        other => return Err(not_inline(&other)),
    };
    // We cannot handle modules that defer to another file (e.g. `mod foo;`).
    let Some((brace, items)) = module.content.take() else {
        return Err(not_inline(&module));
    };

    let mut processed = Vec::new();
    let mut cases = Vec::new();
    let mut names: Vec<Ident> = Vec::new();

    // Generate a case for each `#[test]`.
    //
    // The code generated for the following module:
    //
    // ```
    // #[kselftests]
    // mod tests {
    //     /// What is written is read back.
    //     #[test]
    //     fn reads_back(test: &Test) -> kselftest::Result { ... }
    //
    //     #[test]
    //     #[cfg(CONFIG_KPROBES)]
    //     fn probes(test: &Test) -> kselftest::Result { ... }
    // }
    // ```
    //
    // Looks like:
    //
    // ```
    // pub(super) const CASES: &[::kernel::kselftest::Case] = &[
    //     ::kernel::kselftest::Case::new("reads_back", "What is written ...", reads_back),
    //     #[cfg(CONFIG_KPROBES)]
    //     ::kernel::kselftest::Case::new("probes", "", probes),
    //     #[cfg(not(all(CONFIG_KPROBES)))]
    //     ::kernel::kselftest::Case::left_out("probes", "", &[
    //         #[cfg(not(CONFIG_KPROBES))]
    //         "CONFIG_KPROBES",
    //     ]),
    // ];
    // ```
    //
    // All items are preserved.
    for item in items {
        let mut f = match item {
            Item::Fn(f) => f,
            other => {
                refuse_tests_in(&other)?;
                processed.push(other);
                continue;
            }
        };

        let before = f.attrs.len();
        f.attrs.retain(|attr| !attr.path().is_ident("test"));
        if f.attrs.len() != before {
            check(&f)?;
            if names.contains(&f.sig.ident) {
                return Err(Error::new_spanned(
                    &f.sig.ident,
                    format!(
                        "there is a test `{}` already; a `cfg`'d out one is skipped by itself",
                        f.sig.ident
                    ),
                ));
            }
            names.push(f.sig.ident.clone());
            cases.push(case(&f)?);
        }
        processed.push(Item::Fn(f));
    }

    if cases.is_empty() {
        return Err(Error::new_spanned(
            &module.ident,
            "`#[kselftests]` found no function with `#[test]` in this module",
        ));
    }
    processed.push(Item::Verbatim(quote! {
        /// The test cases, in the order of their functions.
        pub(super) const CASES: &[::kernel::kselftest::Case] = &[#(#cases)*];
    }));

    module.content = Some((brace, processed));
    Ok(module.into_token_stream())
}

fn not_inline(item: &impl ToTokens) -> Error {
    Error::new_spanned(
        item,
        "`#[kselftests]` attribute should only be applied to inline modules",
    )
}

/// Refuses tests in modules inside: the compiler would drop them without a word.
fn refuse_tests_in(item: &Item) -> Result<()> {
    let Item::Mod(ItemMod {
        content: Some((_, items)),
        ..
    }) = item
    else {
        return Ok(());
    };
    for item in items {
        let Item::Fn(f) = item else {
            refuse_tests_in(item)?;
            continue;
        };
        if let Some(test) = f.attrs.iter().find(|attr| attr.path().is_ident("test")) {
            return Err(Error::new_spanned(
                test,
                "a test must be directly in the module with `#[kselftests]`",
            ));
        }
    }
    Ok(())
}

/// Refuses what cannot be a test.
fn check(f: &ItemFn) -> Result<()> {
    for attr in &f.attrs {
        if let Some(name) = UNKNOWN.iter().find(|name| attr.path().is_ident(**name)) {
            return Err(Error::new_spanned(
                attr,
                format!("`#[kselftests]` does not know `#[{name}]`; see `Test::skip()`"),
            ));
        }
    }
    if f.sig.inputs.len() != 1 {
        return Err(Error::new_spanned(
            &f.sig,
            "a test takes a `&Test` and returns a `kselftest::Result`",
        ));
    }
    Ok(())
}

/// The elements of the table for a test, of which one is compiled.
fn case(f: &ItemFn) -> Result<TokenStream> {
    let function = &f.sig.ident;
    let name = function.unraw().to_string();
    let description = description(&f.attrs);

    let mut needs = Vec::new();
    for attr in gather_cfg_attrs(&f.attrs) {
        split(attr.meta.require_list()?.tokens.clone(), &mut needs);
    }
    let mut elements = quote! {
        #(#[cfg(#needs)])*
        ::kernel::kselftest::Case::new(#name, #description, #function),
    };
    if !needs.is_empty() {
        let texts = needs.iter().map(text);
        elements.extend(quote! {
            #[cfg(not(all(#(#needs),*)))]
            ::kernel::kselftest::Case::left_out(#name, #description, &[
                #(#[cfg(not(#needs))] #texts,)*
            ]),
        });
    }
    Ok(elements)
}

/// The first paragraph of the documentation, on one line.
fn description(attrs: &[Attribute]) -> String {
    let docs: Vec<String> = attrs
        .iter()
        .filter_map(|attr| name_value(&attr.meta))
        .filter(|(name, _)| name.is_ident("doc"))
        .map(|(_, text)| text)
        .collect();
    docs.iter()
        .flat_map(|doc| doc.split('\n'))
        .map(str::trim)
        .skip_while(|line| line.is_empty())
        .take_while(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// What `name = "value"` consists of.
fn name_value(meta: &Meta) -> Option<(&Path, String)> {
    match meta {
        Meta::NameValue(MetaNameValue {
            path,
            value: Expr::Lit(value),
            ..
        }) => match &value.lit {
            Lit::Str(value) => Some((path, value.value())),
            _ => None,
        },
        _ => None,
    }
}

/// What is in the parentheses of `name(...)`, if a predicate of `#[cfg]` is that.
fn inside(predicate: &TokenStream, name: &str) -> Option<Vec<TokenStream>> {
    let list: MetaList = syn::parse2(predicate.clone()).ok()?;
    if !list.path.is_ident(name) {
        return None;
    }
    let parts = list
        .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
        .ok()?;
    Some(parts.iter().map(ToTokens::to_token_stream).collect())
}

/// Splits a predicate of `#[cfg]` into those that must all be true.
fn split(predicate: TokenStream, into: &mut Vec<TokenStream>) {
    match inside(&predicate, "all").filter(|parts| !parts.is_empty()) {
        Some(parts) => parts.into_iter().for_each(|part| split(part, into)),
        None => into.push(predicate),
    }
}

/// How to say what a predicate of `#[cfg]` asks for.
fn text(predicate: &TokenStream) -> String {
    for (list, word) in [("any", " or "), ("all", " and ")] {
        if let Some(parts) = inside(predicate, list).filter(|parts| !parts.is_empty()) {
            return parts.iter().map(text).collect::<Vec<_>>().join(word);
        }
    }
    if let Some([part]) = inside(predicate, "not").as_deref() {
        return format!("no {}", text(part));
    }
    match syn::parse2::<Meta>(predicate.clone()) {
        Ok(Meta::Path(path)) => path.into_token_stream().to_string(),
        Ok(meta) => match name_value(&meta) {
            Some((path, value)) => format!("{}={value}", path.to_token_stream()),
            None => format!("cfg({predicate})"),
        },
        // `true` and `false`
        Err(_) => format!("cfg({predicate})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message that something is refused with.
    fn refusal(args: TokenStream, item: TokenStream) -> String {
        match kselftests(args, item) {
            Ok(made) => format!("not refused: {made}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn misuse_is_refused() {
        let test = quote! { #[test] fn a(test: &Test) -> Result { Ok(()) } };
        let takes = |item| refusal(TokenStream::new(), item);

        let with_name = refusal(quote! { name }, quote! { mod m { #test } });
        assert!(with_name.contains("takes no arguments"));
        assert!(takes(quote! { fn a() {} }).contains("inline modules"));
        assert!(takes(quote! { mod m; }).contains("inline modules"));
        assert!(takes(quote! { mod m { fn a() {} } }).contains("no function with `#[test]`"));
        assert!(takes(quote! { mod m { #test mod n { #test } } }).contains("must be directly in"));
        assert!(takes(quote! { mod m { #test #[cfg(X)] #test } }).contains("`a` already"));
        assert!(takes(quote! { mod m { #[test] fn a() {} } }).contains("takes a `&Test`"));
        assert!(takes(quote! { mod m { #[ignore] #test } }).contains("`#[ignore]`"));
        assert!(takes(quote! { mod m { #test } }).contains("not refused"));
    }

    #[test]
    fn predicates_are_split_and_said() {
        let said = |predicate| {
            let mut needs = Vec::new();
            split(predicate, &mut needs);
            needs.iter().map(text).collect::<Vec<_>>()
        };

        assert_eq!(said(quote! { CONFIG_A }), ["CONFIG_A"]);
        assert_eq!(said(quote! { not(CONFIG_A) }), ["no CONFIG_A"]);
        assert_eq!(said(quote! { CONFIG_A = "y" }), ["CONFIG_A=y"]);
        assert_eq!(
            said(quote! { all(CONFIG_A, any(CONFIG_B, CONFIG_C), all(CONFIG_D)) }),
            ["CONFIG_A", "CONFIG_B or CONFIG_C", "CONFIG_D"]
        );
        assert_eq!(said(quote! { false }), ["cfg(false)"]);
    }

    #[test]
    fn the_first_paragraph_is_the_description() {
        let f: ItemFn = syn::parse_quote! {
            /// One line
            /// and another.
            ///
            /// More.
            fn a() {}
        };

        assert_eq!(description(&f.attrs), "One line and another.");
        assert_eq!(description(&[]), "");
    }
}
