//! One list of handlers, from which both the routes and the document that describes them come.

/// Makes the functions `routes() -> Router<$state>` and `document() -> OpenApi` from a list of `module::handler`, each
/// with its `#[utoipa::path]`.
///
/// The two are apart because routes are needed for a start and the document only by those who ask for it; it takes
/// longer to make than everything else of a router.
#[macro_export]
macro_rules! api {
    ($state:ty: $info:ty: $($module:ident :: $handler:ident),+ $(,)?) => {
        fn routes() -> ::axum::Router<$state> {
            use ::utoipa::Path as _;
            use ::utoipa_axum::PathItemExt as _;
            let mut router = ::axum::Router::new();
            $(
                let (path, methods) = ::utoipa_axum::paste! {(
                    $module::[<__path_ $handler>]::path(),
                    $module::[<__path_ $handler>]::methods(),
                )};
                for method in methods {
                    let filter = method.to_method_filter();
                    router = router.route(&path, ::axum::routing::on(filter, $module::$handler));
                }
            )+
            router
        }

        fn document() -> ::utoipa::openapi::OpenApi {
            let info = <$info as ::utoipa::OpenApi>::openapi();
            let api = ::utoipa_axum::router::OpenApiRouter::<$state>::with_openapi(info);
            $(
                let (schemas, mut paths, router) = ::utoipa_axum::routes!($module::$handler);
                $crate::name_operations(&mut paths, stringify!($module), stringify!($handler));
                let api = api.routes((schemas, paths, router));
            )+
            api.into_openapi()
        }
    };
}
